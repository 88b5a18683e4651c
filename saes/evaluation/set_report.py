"""Figures of several SAEs on one text: a report each, from one pass of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.models.bridge import Model
from interp.tokens.token_rows import TokenRows
from saes.evaluation.report import Report, evaluate_together
from saes.own_sites import own_sites
from saes.sae import SAE


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """Reports of the members of a set, in its order.

    Example:
        >>> import interp, saes, torch
        >>> from saes.evaluation.set_report import evaluate_set
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> two = [saes.SAE(96, 192, saes.TopK(k), site="blocks.1.hook_resid_post") for k in (4, 8)]
        >>> two = [sae.initialise(seed=0, mean=torch.zeros(96)) for sae in two]
        >>> found = evaluate_set(two, ["four", "eight"], model, rows)
        >>> dict(zip(found.names, [report.l0.value for report in found.reports]))
        {'four': 4.0, 'eight': 8.0}
    """

    names: tuple[str, ...]
    """What each member is called."""
    targets: tuple[str, ...]
    """Name of the site that each reconstructs."""
    reports: tuple[Report, ...]
    """What each is measured to be."""

    def to_json(self) -> dict[str, Any]:
        """Plain data: a list, ``members``."""
        members = zip(self.names, self.targets, self.reports, strict=True)
        return {"members": [{"name": name, "target": to} | report.to_json() for name, to, report in members]}


def evaluate_set(saes: Sequence[SAE], names: Sequence[str], model: Model, rows: TokenRows, **which: Any) -> SetReport:
    """:func:`saes.evaluation.report.evaluate_together` with the members' names; ``which`` are its options."""
    reports = evaluate_together(saes, model, rows, names=names, **which)
    targets = (str(own_sites(sae)[1]) for sae in saes)
    return SetReport(names=tuple(names), targets=tuple(targets), reports=tuple(reports))
