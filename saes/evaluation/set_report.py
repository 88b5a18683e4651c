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
    """Reports of the members of a set, in its order."""

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
