"""The accuracies that tell learning in context from learning in weights, and where attention goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.in_context.network import Output
from interp.in_context.sequences import Classes, Sequences, sequences
from interp.metrics import Estimate
from interp.terminal.short_repr import short_repr

ACCURACIES = {
    "plain": "Accuracy on sequences as in training",
    "novel": "Accuracy on new classes: only the context tells",
    "swapped": "Accuracy on known classes whose labels are swapped in the context, the swapped label being right",
    "weights": "Accuracy on known classes that the context lacks: only the weights tell",
    "copied": "Share of sequences of new classes that are answered with some label of the context",
    "swapped_from_weights": "Share of swapped sequences that are answered as the weights know it",
}
"""Measures of answers, 0 to 1."""

ATTENTION = {
    "item_label": "Attention of a label to the item before it",
    "correct_label": "Attention of the query to a right label, minus that to a wrong one",
    "any_label": "Attention of the query to all labels of the context",
}
"""Measures of each layer, on sequences of new classes; a layer's number stands behind a dot."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """What a network does with each sequence of the evaluations.

    Example:
        >>> import torch
        >>> from interp.in_context import Output, Setting, draw_classes, evaluation_sets, measure
        >>> sets = evaluation_sets(draw_classes(Setting(labels=4)), 100)
        >>> measure(lambda inputs: Output(torch.zeros(len(inputs), 4)), sets).chance["novel"][0]
        0.25
    """

    rows: dict[str, Float[Tensor, " sequences"]]
    """Measure -> its value on each sequence; NaN where it is not defined."""
    chance: dict[str, tuple[float, float]]
    """Accuracy -> what guessing any label has, and what copying any label of the context has."""

    __repr__ = short_repr

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Means over sequences."""
        return {name: mean_of(row) for name, row in self.rows.items()}


def mean_of(row: Float[Tensor, " sequences"]) -> Estimate:
    """Over the sequences on which a measure is defined; NaN, of 0, where it is on none."""
    kept = row[~row.isnan()]
    return metrics.mean(kept) if len(kept) else Estimate(float("nan"), float("nan"), 0)


def evaluation_sets(classes: Classes, n: int = 1000, *, seed: int = 1) -> dict[str, Sequences]:
    """The same sequences for every network: of the setting, of new classes, with swapped labels, and of known classes
    that their contexts lack.

    Example:
        >>> from interp.in_context import Setting, draw_classes, evaluation_sets
        >>> list(evaluation_sets(draw_classes(Setting()), 10))
        ['plain', 'novel', 'swapped', 'weights']
    """
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "novel": {"bursty": 1.0, "novel": 1.0},
        "swapped": {"bursty": 1.0, "novel": 0.0, "swapped": True},
        "weights": {"bursty": 0.0, "novel": 0.0, "absent": True},
    }
    return {name: sequences(classes, n, seed=seed * 1000 + i, **each) for i, (name, each) in enumerate(options.items())}


@torch.no_grad()
def measure(model: Callable[[Tensor], Output], sets: Mapping[str, Sequences]) -> Measures:
    """All accuracies, and the attention on the set ``novel``, where a right label always stands in the context.

    Args:
        model: from inputs to an :class:`Output`; without patterns, attention is left out.
        sets: from :func:`evaluation_sets`.

    Raises:
        ValueError: logits that are not finite, whose largest is no answer.

    Example:
        >>> from interp.in_context import AttentionClassifier, Setting, draw_classes, evaluation_sets, measure
        >>> sets = evaluation_sets(draw_classes(Setting()), 200)
        >>> found = measure(AttentionClassifier(Setting()), sets).estimates
        >>> found["novel"].n
        200
    """
    rows: dict[str, Tensor] = {}
    chance: dict[str, tuple[float, float]] = {}
    for name, each in sets.items():
        output = model(each.inputs)
        if not output.logits.isfinite().all():
            raise ValueError(f"logits on the set {name} are not finite, so that they answer nothing: has it diverged?")
        answer = output.logits.argmax(-1).cpu()
        rows[name] = (answer == each.target).float()
        chance[name] = 1 / output.logits.shape[1], float(each.copy_chance.mean())
        if name == "swapped":
            rows["swapped_from_weights"] = (answer == each.from_weights).float()
        if name == "novel":
            rows["copied"] = (each.context_labels == answer[:, None]).any(1).float()
            for layer, pattern in enumerate(output.patterns):
                rows |= {f"{what}.{layer}": row for what, row in _attention(pattern.cpu(), each).items()}
    return Measures(rows=rows, chance=chance)


def _attention(pattern: Float[Tensor, "sequences query key"], drawn: Sequences) -> dict[str, Tensor]:
    items = torch.arange(0, pattern.shape[1] - 1, 2)
    to_labels = pattern[:, -1, items + 1]
    right = drawn.context_labels == drawn.target[:, None]
    return {
        "item_label": pattern[:, items + 1, items].mean(1),
        # 0 / 0 is NaN: sequences that hold right labels alone, or none, say nothing.
        "correct_label": _mean_where(to_labels, right) - _mean_where(to_labels, ~right),
        "any_label": to_labels.sum(1),
    }


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum(1) / chosen.sum(1)
