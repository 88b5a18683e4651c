"""A report of a dictionary over several places, for the terminal and as a page."""

from collections.abc import Iterator
from itertools import pairwise

import plotly.graph_objects as go
from rich.table import Table

from interp.metrics import Estimate
from interp.pages.html_page import COLORS, Page
from saes.evaluation.places_report import PlacesReport, ReplacementFigures
from saes.evaluation.report import DENSITY_EDGES

FIGURE_COLUMNS = ("figure", "value ± standard error", "n")
PLACE_COLUMNS = ("written", "FVU")
PART_COLUMNS = ("read", "written", "L0", "dead")


def figure_rows(report: PlacesReport) -> list[tuple[str, str, str]]:
    """Label, value ± standard error, and n of every figure over all places."""
    found: list[tuple[str, Estimate]] = [
        ("FVU, mean over places", report.fvu),
        ("L0, all parts together", report.l0),
        ("Dead fraction", report.dead_fraction),
        ("CE clean (nats/token)", report.ce_clean),
        *_replacement("true stream", report.true_stream),
        *(_replacement("compounding", report.compounding) if report.compounding is not None else []),
    ]
    rows = [(label, str(estimate), f"{estimate.n:,}") for label, estimate in found]
    exact = f"{report.with_error_nodes:.1e}"
    return [*rows, ("Largest logit difference with error nodes, over the largest logit", exact, "")]


def _replacement(mode: str, figures: ReplacementFigures) -> list[tuple[str, Estimate]]:
    return [
        (f"KL model to replacement, {mode} (nats/token)", figures.kl),
        (f"CE of the replacement, {mode} (nats/token)", figures.ce),
        (f"CE added by the replacement, {mode} (nats/token)", figures.ce_difference),
        (f"Top-1 agreement, {mode}", figures.top_1),
    ]


def place_rows(report: PlacesReport) -> list[tuple[str, str]]:
    """``PLACE_COLUMNS`` of every place written."""
    return [(figures.place, str(figures.fvu)) for figures in report.places]


def part_rows(report: PlacesReport) -> list[tuple[str, str, str, str]]:
    """``PART_COLUMNS`` of every part."""
    return [(_span(part.reads), _span(part.writes), str(part.l0), str(part.dead_fraction)) for part in report.parts]


def _span(places: tuple[str, ...]) -> str:
    return places[0] if len(places) == 1 else f"{places[0]} … {places[-1]} ({len(places)})"


def tables(report: PlacesReport, *, title: str) -> Iterator[Table]:
    """For the terminal."""
    documents = f"{report.tokens:,} tokens of {report.documents} documents"
    for columns, rows, name in (
        (FIGURE_COLUMNS[:2], [row[:2] for row in figure_rows(report)], f"{title}, {report.kind}: {documents}"),
        (PLACE_COLUMNS, place_rows(report), "Places"),
        (PART_COLUMNS, part_rows(report), f"Parts, {report.d_sae:,} latents each"),
    ):
        table = Table(*columns, title=name)
        for row in rows:
            table.add_row(*row)
        yield table


def build_page(report: PlacesReport, *, title: str, data: str) -> Page:
    """Lay a report out; ``data`` names the text."""
    page = Page(
        title,
        subtitle=f"{report.kind} over {len(report.places)} places · {report.tokens:,} tokens of {report.documents}"
        f" documents of {data}",
    )
    page.heading("Figures").table(list(FIGURE_COLUMNS), figure_rows(report)).text(
        f"± is one standard error over {report.fvu.units('documents')}; for the dead fraction, over latents. In the"
        " replacement model the reconstructions stand in for the activations: on the true stream each is made from the"
        " clean model's activations, compounding from the replaced ones. With error nodes, what is missing on the clean"
        " stream is added, and the replacement must be the model itself."
    )
    page.heading("Places").table(list(PLACE_COLUMNS), place_rows(report))
    page.heading("Parts").table(list(PART_COLUMNS), part_rows(report)).figures(_density(report))
    return page.data("report", report.to_json())


def _density(report: PlacesReport) -> tuple[go.Figure, str]:
    centres = [(a + b) / 2 for a, b in pairwise(DENSITY_EDGES)]
    traces = [
        go.Scatter(
            x=centres,
            y=part.density_histogram,
            name=_span(part.reads),
            mode="lines",
            line={"color": COLORS[number % len(COLORS)]},
        )
        for number, part in enumerate(report.parts)
    ]
    figure = go.Figure(traces, {"title": "How often latents are active"})
    figure.update_xaxes(title="log10 share of tokens").update_yaxes(title="latents")
    return figure, f"Latents that are active at least once in {report.tokens:,} tokens, a line for every part."
