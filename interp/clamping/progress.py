"""Progress measures: the loss of a model as it is, and as it would be with parts of a circuit clamped."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.checkpoints.curves import Measurement, Quantity, quantity
from interp.clamping.induction import earlier_occurrences, induction_strength
from interp.clamping.rules import Rule, parse_rules
from interp.clamping.within import clamp
from interp.metrics import Estimate
from interp.terminal.progress import counted

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@torch.no_grad()
def clamped_losses(
    model: Any,
    tokens: Int[Tensor, "sequences position"],
    rules: Mapping[str, Sequence[Rule]],
    *,
    batch: int = 4,
) -> dict[str, tuple[Estimate, Estimate]]:
    """Loss within each of several clamps, and its change from the loss without, nats a token, ± over sequences.

    Only tokens count that follow a token which occurred before in their row: what induction can predict.

    Args:
        model: from ``load_model``.
        tokens: rows of one length without padding, such as :func:`repeated_rows`.
        rules: name -> clamps that hold together. ``none`` is added, without any.
        batch: sequences a forward pass.

    Returns:
        dict: name -> (loss, loss minus that of ``none``).

    Raises:
        ValueError: as :func:`clamp`; no token occurs twice.

    Example:
        >>> import interp
        >>> from interp.clamping import Ablate, clamped_losses, repeated_rows
        >>> model = interp.load_model("embedded")
        >>> tokens = repeated_rows(1000, sequences=2, half=8)
        >>> losses = clamped_losses(model, tokens, {"without": [Ablate(layer=1, head=0)]})
        >>> sorted(losses), losses["none"][1].value
        (['none', 'without'], 0.0)
    """
    scored = earlier_occurrences(tokens)[:, :-1].any(-1).cpu()
    if not scored.any():
        raise ValueError("no token occurs twice in a row, so that induction has nothing to predict: see repeated_rows")
    counts = scored.sum(1).float()

    def losses(name: str) -> Float[Tensor, " sequences"]:
        batches = counted(tokens.split(batch), f"loss within {name}", unit="batches")
        parts = [metrics.cross_entropy(model(rows), rows.to(model.cfg.device)).cpu() for rows in batches]
        return (torch.cat(parts) * scored).sum(1)

    found: dict[str, Tensor] = {}
    for name, clamps in {"none": (), **rules}.items():
        with clamp(model, clamps) if clamps else nullcontext():
            found[name] = losses(name)
    return {
        name: (metrics.ratio(each, counts), metrics.ratio(each - found["none"], counts)) for name, each in found.items()
    }


def measurement(specs: Sequence[str]) -> Measurement:
    """:func:`clamped_losses` and the strength of every head, for :func:`interp.checkpoints.sweep`.

    Args:
        specs: as :func:`parse_rules` reads them.

    Example:
        >>> from interp.clamping import measurement
        >>> measurement(["previous:0.2", "ablate:1.0"]).name
        'clamps'
    """
    rules = {spec: parse_rules(spec) for spec in specs}

    def run(model: Any, tokens: Int[Tensor, "sequences position"]) -> dict[str, Quantity]:
        found = clamped_losses(model, tokens, rules)
        heads = {f"{layer}.{head}": each for (layer, head), each in induction_strength(model, tokens).items()}
        changes = {name: change for name, (_, change) in found.items() if name != "none"}
        return {
            "loss": quantity({name: loss for name, (loss, _) in found.items()}),
            **({"change": quantity(changes)} if changes else {}),
            "induction_strength": quantity(heads),
        }

    titles = {
        "loss": "Loss on tokens that induction can predict, nats",
        "change": "Change of that loss by each clamp, nats",
        "induction_strength": "Induction strength of each head",
    }
    return Measurement(name="clamps", code=CODE, run=run, titles=titles, settings={"specs": list(specs)})
