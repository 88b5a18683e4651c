"""What the weights of the sparsity losses are multiplied with in a step, a factor a part."""

from collections.abc import Collection, Sequence

from saes.distributed.group import Group
from saes.latents import Latents
from saes.losses import SPARSITY
from saes.training.sparsity.target import next_factor, weight_factor
from saes.training.stepping.state import TrainState


def rising(step: int, *, over: float, parts: int) -> dict[str, list[float]]:
    """The same for all terms: it grows to 1 over the first ``over`` steps."""
    return dict.fromkeys(SPARSITY, [min(1.0, (step + 1) / max(1.0, over))] * parts)


def controlled(
    state: TrainState, latents: Sequence[Latents], target: float, *, terms: Collection[str], steps: int, together: bool
) -> dict[str, list[float]]:
    """What brings L0 to ``target`` in a run of ``steps`` with these ``terms``; the state of the control moves on. Parts
    that are taken ``together`` have the same factors, by their mean L0."""
    l0 = [mean_l0(its, state.sae.group) for its in latents]
    if together:
        l0 = [sum(l0) / len(l0)] * len(l0)
    its = list(zip(state.sparsity, l0, strict=True))
    now = {term: [weight_factor(factor, found, target, term=term) for factor, found in its] for term in terms}
    state.sparsity = tuple(next_factor(factor, found, target, steps=steps, terms=terms) for factor, found in its)
    return now


def mean_l0(latents: Latents, group: Group) -> float:
    """Active latents a row, of one part, on all processes."""
    return float(group.mean(group.over_latents(latents.l0.float())))
