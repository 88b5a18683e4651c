"""A report of several SAEs as one table with a row each, for the terminal and as a page."""

from collections.abc import Callable

import plotly.graph_objects as go
from rich.table import Table

from interp.metrics import Estimate
from interp.pages.html_page import COLORS, Page
from interp.sites.site import Site
from saes.evaluation.report import Report
from saes.evaluation.set_report import SetReport

COLUMNS = ("site", "FVU", "L0", "dead", "CE recovered", "CE added", "KL")
_IN_TERMINAL = ("FVU", "L0", "CE recovered", "CE added")
"""As many as fit."""
_UNITS = (
    "CE recovered is by the zero baseline, CE added and KL in nats a token, each with one member's reconstruction in"
    " the model"
)


def rows(report: SetReport) -> list[tuple[str, ...]]:
    """``COLUMNS`` of every member; a transcoder's site is an arrow to its target, and of several at one site each has
    its name."""
    sites = [its.site for its in report.reports]
    found = []
    for name, target, its in zip(report.names, report.targets, report.reports, strict=True):
        site = its.site if target == its.site else f"{its.site} → {target}"
        site = site if sites.count(its.site) == 1 else f"{name}: {site}"
        estimates = (its.fvu, its.l0, its.dead_fraction, its.ce_recovered_zero, its.ce_difference, its.kl)
        found.append((site, *map(str, estimates)))
    return found


def table(report: SetReport, *, title: str) -> Table:
    """For the terminal."""
    shown = Table(title=f"{title}: {_text(report)}", caption=f"{_UNITS}; --save and --html have KL and dead latents")
    shown.add_column(COLUMNS[0], no_wrap=True)
    for name in _IN_TERMINAL:
        shown.add_column(name)
    for row in rows(report):
        shown.add_row(row[0], *(row[COLUMNS.index(name)] for name in _IN_TERMINAL))
    return shown


def build_page(report: SetReport, *, title: str, data: str) -> Page:
    """Lay a report out; ``data`` names the text."""
    page = Page(title, subtitle=f"{len(report.reports)} dictionaries · {_text(report)} of {data}")
    fvu = report.reports[0].fvu
    page.heading("Members").table(COLUMNS, rows(report)).text(
        f"{_UNITS}; ± is one standard error over {fvu.units('documents')}, for the dead fraction over latents. The"
        " clean model ran once for all members; each member's figures are those of measuring it alone."
    )
    page.figures(
        _by_layer(report, "Variance unexplained", "FVU", lambda its: its.fvu),
        _by_layer(report, "Loss recovered, zero baseline", "CE recovered", lambda its: its.ce_recovered_zero),
    )
    page.heading("Files").table(
        ("member", "site", "latents"),
        [(name, its.site, f"{its.d_sae:,}") for name, its in zip(report.names, report.reports, strict=True)],
    )
    return page.data("report", report.to_json())


def _text(report: SetReport) -> str:
    first = report.reports[0]
    return f"{first.tokens:,} tokens of {first.documents} documents"


def _by_layer(report: SetReport, title: str, label: str, figure: Callable[[Report], Estimate]) -> tuple[go.Figure, str]:
    """A point a member, in the order of the set, with its standard error; a colour a kind of site."""
    kinds = [Site.parse(its.site).kind for its in report.reports]
    traces = []
    for number, kind in enumerate(dict.fromkeys(kinds)):
        of_kind = [its for its, its_kind in zip(report.reports, kinds, strict=True) if its_kind == kind]
        estimates = [figure(its) for its in of_kind]
        traces.append(
            go.Scatter(
                x=[_layer(its.site) for its in of_kind],
                y=[estimate.value for estimate in estimates],
                error_y={"type": "data", "array": [estimate.standard_error for estimate in estimates]},
                mode="lines+markers",
                name=kind,
                line={"color": COLORS[number % len(COLORS)]},
            )
        )
    shown = go.Figure(traces, {"title": title, "xaxis_title": "layer", "yaxis_title": label})
    if len({_layer(its.site) for its in report.reports}) <= 16:
        shown.update_xaxes(dtick=1)
    return shown, f"{label} of every member with one standard error."


def _layer(site: str) -> int | str:
    layer = Site.parse(site).layer
    return site if layer is None else layer
