"""Estimates side by side against exact patching: the table of the RelP paper, for any model and task."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.attribution.dispatch import attribute
from circuits.scores.agreement import agreement
from circuits.scores.nodes import Scores
from circuits.tasks.task import Task
from interp.models.bridge import Model

VARIANTS: dict[str, dict[str, Any]] = {
    "AtP": {"method": "atp"},
    "LN": {"method": "relp", "rules": "ln"},
    "LN+Id+Half": {"method": "relp", "rules": "no_ah"},
    "all four": {"method": "relp", "rules": "paper"},
}
"""Attribution patching, and relevance with one, three and all rules."""
FAMILIES = ("resid_pre", "attn_out", "mlp_out")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Exact scores by family, and estimates with their agreement by variant and family.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> found = circuits.compare(model, task, nodes=["attn_out"])
        >>> found.markdown().splitlines()[1].count("---") == 1 + len(found.estimates)
        True
    """

    exact: Mapping[str, Scores]
    """Scores by exact patching, for each family of nodes."""
    estimates: Mapping[str, Mapping[str, Scores]]
    """Estimated scores with their agreement, by variant and then by family."""
    seconds: Mapping[str, float]
    """Wall time in seconds by variant, and of ``exact``."""

    def markdown(self) -> str:
        """Pearson on all cells with its 95 % interval, and the slope; a row for each family."""
        lines = ["| nodes | " + " | ".join(self.estimates) + " |", "|---" * (1 + len(self.estimates)) + "|"]
        for family in self.exact:
            cells = []
            for variant in self.estimates.values():
                agreed = variant[family].agreement
                assert agreed is not None
                cells.append(f"{agreed.pearson:.3f} ({agreed.interval_text}), slope {agreed.slope:.2f}")
            lines.append(f"| {family} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All scores and agreements."""
        return {
            "exact": {family: scores.to_json() for family, scores in self.exact.items()},
            "estimates": {
                name: {family: scores.to_json() for family, scores in variant.items()}
                for name, variant in self.estimates.items()
            },
            "seconds": dict(self.seconds),
        }


def compare(
    model: Model,
    task: Task,
    *,
    nodes: Sequence[str] = FAMILIES,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Comparison:
    """Patch exactly once, score by every variant, and say how well each agrees.

    Args:
        variants: Arguments of :func:`circuits.attribute` by name; by default ``VARIANTS``.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> found = circuits.compare(model, task, nodes=["attn_out"])
        >>> list(found.exact), len(found.estimates) > 1
        (['attn_out'], True)
    """
    begin = time.perf_counter()
    exact = attribute(model, task, nodes=list(nodes), method="patching")
    seconds = {"exact": time.perf_counter() - begin}
    estimates = {}
    for name, options in (VARIANTS if variants is None else variants).items():
        begin = time.perf_counter()
        scores = attribute(model, task, nodes=list(nodes), **options)
        seconds[name] = time.perf_counter() - begin
        estimates[name] = {family: own.compared_with(agreement(own, exact[family])) for family, own in scores.items()}
    return Comparison(exact=exact, estimates=estimates, seconds=seconds)
