"""Activation sparsity at every checkpoint, at one CETT for all (Sparsing Law, arXiv 2411.02335)."""

from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from interp.checkpoints.schedules import choose_steps
from interp.checkpoints.sources import Source, open_source
from interp.checkpoints.visiting import in_turn
from interp.models.loading import load_model
from interp.sparsity.activation_sparsity import Sparsity, ppl_sparsity, sparsity_at


def sparsity_over_training(
    model: str | Source,
    tokens: Int[Tensor, "sequences position"],
    scratch: str | Path,
    *,
    steps: str = "all",
    p: float = 1.0,
    dtype: str = "float32",
    device: str | None = None,
    budget: int | None = None,
) -> dict[int, Sparsity]:
    """Step -> sparsity, at the CETT that raises the last checkpoint's perplexity by ``p`` percent (the paper averages
    over its last five).

    ``scratch`` holds downloaded checkpoints while they are needed; the other options are those of
    :func:`interp.massive.training_sweep.sweep`. Steps that do not exist are left out.

    Raises ValueError where none of the steps exists, and what ``ppl_sparsity`` raises.
    """
    source = open_source(model) if isinstance(model, str) else model
    chosen = [step for step in choose_steps(steps, source.checkpoints) if step in source.checkpoints]
    if not chosen:
        raise ValueError(
            f"{source.name} has none of the steps {steps}; it has {', '.join(map(str, source.checkpoints))}"
        )
    order = [source.checkpoints[step] for step in (chosen[-1], *chosen[:-1])]
    found: dict[int, Sparsity] = {}
    for checkpoint, folder in in_turn(source, order, Path(scratch) / "checkpoints", budget, lambda *_: None):
        loaded = load_model(folder, dtype=dtype, device=device)
        last = found.get(chosen[-1])
        found[checkpoint.step] = (
            ppl_sparsity(loaded, tokens, p=p) if last is None else sparsity_at(loaded, tokens, cett=last.cett)
        )
    return dict(sorted(found.items()))
