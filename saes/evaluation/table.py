"""An evaluation as tables: the rows that both the terminal and the page show."""

from collections.abc import Iterator

from rich.table import Table

from interp.metrics import Estimate
from saes.evaluation.breakdown import Figures
from saes.evaluation.report import Report

LABELS = {
    "fvu": "FVU",
    "explained_variance": "Explained variance",
    "mse": "MSE a dimension",
    "cosine": "Cosine",
    "l0": "L0",
    "dead_fraction": "Dead fraction",
    "ce_clean": "CE clean (nats/token)",
    "ce_spliced": "CE with the SAE (nats/token)",
    "ce_difference": "CE added by the SAE (nats/token)",
    "ce_mean": "CE mean-ablated (nats/token)",
    "ce_zero": "CE zero-ablated (nats/token)",
    "ce_recovered_zero": "CE recovered, zero baseline",
    "ce_recovered_mean": "CE recovered, mean baseline",
    "kl": "KL clean to SAE (nats/token)",
}
AFA_LABELS = {
    "epsilon_lbo": "ε_LBO, mean",
    "epsilon_lbo_median": "ε_LBO, median",
    "epsilon_lbo_reconstruction": "ε_LBO of the reconstruction, mean",
    "norm_ratio": "‖f‖ / ‖z‖",
    "under_activated": "Under-activated share",
    "over_activated": "Over-activated share",
}
PART_COLUMNS = ("tokens", "n", "FVU", "L0", "CE added", "CE clean", "ε_LBO")
_IN_TERMINAL = 5
"""As many of the columns fit into 80 characters."""


def figure_rows(report: Report) -> list[tuple[str, str, str]]:
    """Label, value ± standard error, and n of every figure over the whole text."""
    found = [(label, getattr(report, name)) for name, label in LABELS.items()]
    if report.afa is not None:
        found += [(label, getattr(report.afa, name)) for name, label in AFA_LABELS.items()]
    return [(label, str(estimate), f"{estimate.n:,}") for label, estimate in found]


def part_rows(report: Report) -> list[tuple[str, ...]]:
    """``PART_COLUMNS`` of all tokens, of the massive ones, of the others, and of each range of positions."""
    epsilon = None if report.afa is None else report.afa.epsilon_lbo
    whole = (report.fvu, report.l0, report.ce_difference, report.ce_clean, epsilon)
    rows = [
        ("all", f"{report.tokens:,}", *map(_text, whole)),
        _part_row("without massive", report.without_massive),
        _part_row("massive alone", report.only_massive),
    ]
    for part in report.positions:
        where = f"position {part.first}" if part.first == part.last else f"positions {part.first}-{part.last}"
        rows.append(_part_row(where, part.figures))
    return rows


def _part_row(name: str, part: Figures | None) -> tuple[str, ...]:
    if part is None:
        return (name, "0", *"-" * (len(PART_COLUMNS) - 2))
    estimates = (part.fvu, part.l0, part.ce_difference, part.ce_clean, part.epsilon_lbo)
    return (name, f"{part.tokens:,}", *map(_text, estimates))


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else str(estimate)


def tables(report: Report, *, title: str) -> Iterator[Table]:
    """For the terminal."""
    documents = f"{report.tokens:,} tokens of {report.documents} documents"
    if report.fvu.blocks:
        documents += f", ± over {report.fvu.units('documents')}"
    whole = Table(title=f"{title} at {report.site}: {documents}")
    whole.add_column("figure")
    whole.add_column("value ± standard error", justify="right")
    for label, value, _ in figure_rows(report):
        whole.add_row(label, value)
    yield whole
    massive = f"massive: a norm above {report.massive_norm:.4g}; CE added by the SAE, nats/token"
    parts = Table(*PART_COLUMNS[:_IN_TERMINAL], title="Parts of the text, ± one standard error", caption=massive)
    for row in part_rows(report):
        parts.add_row(*row[:_IN_TERMINAL])
    yield parts
