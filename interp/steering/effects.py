"""What an intervention does where it should do nothing: next-token distributions on neutral text, with and without."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.models.feed_forward import root_of
from interp.models.inputs import checked_inputs
from interp.terminal.progress import counted


@dataclass(frozen=True, kw_only=True)
class SideEffects:
    """Each ± over sequences.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> tokens = model.to_tokens("Emma went to the market.")
        >>> found = interp.side_effects(model, tokens, lambda: interp.steer(model, neurons=[(2, 17)], value=0.0))
        >>> found.top_changed.value <= 1
        True
    """

    kl: Estimate
    """KL(before || after) of the next token, in nats a position."""
    loss: Estimate
    """Cross-entropy before, in nats a predicted token."""
    loss_change: Estimate
    """After minus before, paired by sequence."""
    top_changed: Estimate
    """Share of positions whose most likely next token is another."""


@torch.no_grad()
def side_effects(
    model: Model,
    tokens: Int[Tensor, "sequences position"],
    steering: Callable[[], AbstractContextManager[Any]],
    *,
    batch: int = 4,
) -> SideEffects:
    """Compare a model with itself within ``steering()``, on rows of text that have nothing to do with the concept.

    Args:
        model: that maps tokens to logits.
        tokens: rows of neutral text without padding; more rows, smaller errors.
        steering: makes the context, such as ``lambda: steer(model, neurons=cluster.neurons, value=6.0)``.
        batch: rows a forward pass.

    Raises:
        ValueError: rows of fewer than two tokens, or tokens that the model does not have.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> tokens = model.to_tokens("Emma went to the market.").repeat(2, 1)
        >>> found = interp.side_effects(model, tokens, lambda: interp.steer(model, neurons=[(2, 17)], value=0.0))
        >>> found.kl.n, float(found.kl.value) >= 0
        (2, True)
    """
    if tokens.shape[1] < 2:
        raise ValueError(f"rows of {tokens.shape[1]} tokens predict nothing; give rows of two or more")
    found: dict[str, list[Tensor]] = {name: [] for name in ("kl", "loss", "loss_change", "top_changed")}
    for rows in counted(tokens.cpu().split(batch), "measure side effects", unit="batches"):
        before = _logits(model, rows)
        with steering():
            after = _logits(model, rows)
        clean = metrics.cross_entropy(before, rows).mean(1)
        found["kl"].append(metrics.kl(before, after).mean(1))
        found["loss"].append(clean)
        found["loss_change"].append(metrics.cross_entropy(after, rows).mean(1) - clean)
        found["top_changed"].append((before.argmax(-1) != after.argmax(-1)).float().mean(1))
    return SideEffects(**{name: metrics.mean(torch.cat(values)) for name, values in found.items()})


def _logits(model: Model, rows: Tensor) -> Tensor:
    inputs, options = checked_inputs(model, rows)
    out = root_of(model)(inputs, **options)
    logits: Tensor = getattr(out, "logits", out)
    return logits.float().cpu()
