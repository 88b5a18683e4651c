"""The figures of a step that go to the log."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from saes.activations import TopAFA
from saes.latents import Latents
from saes.losses import Pass
from saes.places.losses import Forward
from saes.sae import SAE
from saes.training.figures.fvu import fvu_of
from saes.training.stepping.sparsity import mean_l0
from saes.training.stepping.state import TrainState


def figures_of(
    forward: Pass | Forward,
    latents: Sequence[Latents],
    targets: Sequence[Tensor],
    x_hats: Sequence[Tensor],
    terms: dict[str, Tensor],
    gradient: Tensor,
    state: TrainState,
) -> dict[str, float | None]:
    """Of several places, ``fvu`` is the mean over those written and ``l0`` the sum over parts, and each has its own
    beside them."""
    group = state.sae.group
    fvu = [fvu_of(target, x_hat, group) for target, x_hat in zip(targets, x_hats, strict=True)]
    l0 = [mean_l0(its, group) for its in latents]
    known = [value for value in fvu if value is not None]
    return {
        "loss": float(sum(terms.values())),
        **{name: term.item() for name, term in terms.items()},
        "fvu": sum(known) / len(known) if len(known) == len(fvu) else None,
        "l0": sum(l0),
        "dead": float(forward.n_dead),
        **({"l0_per_dimension": l0[0] / state.alone.d_in} if _chooses(state) else {}),
        **({f"fvu.{i}": value for i, value in enumerate(fvu)} if len(fvu) > 1 else {}),
        **({f"l0.{i}": value for i, value in enumerate(l0)} if len(l0) > 1 else {}),
        "gradient_norm": float(gradient),
        "lr": state.optimizer.param_groups[0]["lr"],
    }


def _chooses(state: TrainState) -> bool:
    """Whether the variant chooses how many latents are active, which may be more than there are dimensions."""
    return isinstance(state.sae, SAE) and isinstance(state.sae.activation, TopAFA)


def controlled_weights(weights: Mapping[str, float], sparsity: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What the weights of sparsity terms are in this step where they are controlled: ``weight.TERM``, of several parts
    their mean, with that of each beside it."""
    figures: dict[str, float] = {}
    for name, factors in sparsity.items():
        own = weights[name]
        figures[f"weight.{name}"] = own * sum(factors) / len(factors)
        if len(factors) > 1:
            figures |= {f"weight.{name}.{i}": own * factor for i, factor in enumerate(factors)}
    return figures
