"""The page that ``interp eval --html`` writes: one SAE's figures on one text, each with its definition and n."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from interp.massive.massive_tokens import MASSIVE_TIMES
from interp.metrics import Estimate
from interp.pages.html_page import COLORS, Page
from saes.evaluation.afa_quality import AFAQuality
from saes.evaluation.breakdown import Figures
from saes.evaluation.report import DENSITY_EDGES, Report
from saes.evaluation.table import PART_COLUMNS, figure_rows, part_rows

Captioned = tuple[go.Figure, str]


def build_page(report: Report, *, title: str, data: str) -> Page:
    """Lay a report out; ``data`` names the text."""
    page = Page(
        title,
        subtitle=f"{report.site} · {report.tokens:,} tokens of {report.documents} documents of {data}",
    )
    cards = [
        _card("FVU", report.fvu, "variance unexplained, about the mean"),
        _card("L0", report.l0, f"active latents a token, of {report.d_sae:,}"),
        _card("CE recovered", report.ce_recovered_zero, "1 is the clean model, 0 zero ablation"),
        _card("Dead latents", report.dead_fraction, f"share silent on all {report.tokens:,} tokens"),
    ]
    if report.afa is not None:
        cards.append(_card("ε_LBO, median", report.afa.epsilon_lbo_median, "latents' norm against the activation's"))
    page.cards(cards)
    page.heading("Figures").table(["figure", "value ± standard error", "n"], figure_rows(report)).text(
        f"± is one standard error over {report.fvu.units('documents')}; for the dead fraction, over latents. Losses are"
        " measured with the SAE's reconstruction in place of the activation."
    )
    page.heading("Latents").figures(_l0(report), _density(report))
    if report.afa is not None:
        page.heading("Feature activation: ZF plot and ε_LBO").text(
            "ε_LBO is the smallest quasi-orthogonality ε with |‖z‖² - ‖f‖²| ≤ ε (h - 1) ‖f‖² for a token: z is the raw"
            " activation, f the latents scaled by their decoder norms with ‖b_dec‖ as one more, h the number of"
            " latents. Lower is better. Taken on the reconstruction instead of z it is a lower bound on the decoder's"
            " coherence."
        )
        page.figures(zf_figure(report.afa, report.tokens)).table(*_bands(report.afa))
    page.heading("By position in the row").figures(*_positions(report))
    page.heading("Parts of the text").text(
        f"A token is massive where its activation's norm is above {MASSIVE_TIMES:g} times the median norm of this text,"
        f" here {report.massive_norm:.4g}. Without them means: they are not counted, and stay clean in the splice. FVU"
        " of parts is about the mean of the tokens that are not massive; CE added is that of the splice minus that of"
        " the clean model, in nats a token."
    )
    return page.table(PART_COLUMNS, part_rows(report)).data("report", report.to_json())


def _card(label: str, estimate: Estimate, note: str) -> tuple[str, str, str]:
    """The error goes into the note: a card is too narrow for both."""
    return label, f"{estimate.value:.3g}", f"{estimate.error('.1g')} · {note}"


def _figure(title: str, x: str, y: str, traces: list[Any], **layout: object) -> go.Figure:
    return go.Figure(traces, {"title": title, "xaxis_title": x, "yaxis_title": y, **layout})


def _l0(report: Report) -> Captioned:
    # Bars of equal width: single counts would be hairlines where L0 runs into the thousands.
    counts, shares = list(report.l0_histogram), [n / report.tokens for n in report.l0_histogram.values()]
    bins = {"start": -0.5, "end": max(counts) + 0.5, "size": 1 + max(counts) // 100}
    trace = go.Histogram(x=counts, y=shares, histfunc="sum", xbins=bins, autobinx=False, marker_color=COLORS[0])
    figure = _figure("Active latents a token", "L0", "share of tokens", [trace], bargap=0.05)
    figure.update_xaxes(range=[0, 1.1 * max(counts) + 1])
    return figure, f"Mean {report.l0}; n = {report.tokens:,} tokens."


def _density(report: Report) -> Captioned:
    centres = [(a + b) / 2 for a, b in pairwise(DENSITY_EDGES)]
    trace = go.Bar(x=centres, y=report.density_histogram, marker_color=COLORS[2], marker_line_width=0)
    figure = _figure("How often latents are active", "log10 share of tokens", "latents", [trace], bargap=0.05)
    alive = sum(report.density_histogram)
    return (
        figure,
        f"The {alive:,} latents of {report.d_sae:,} that are active at least once in {report.tokens:,} tokens.",
    )


def zf_figure(afa: AFAQuality, tokens: int, *, title: str = "ZF plot") -> Captioned:
    """||f|| of tokens against ||z||, between the lines of the bands."""
    ends = [0.0, 1.05 * max(afa.z_norms)]
    top = 1.1 * max(*afa.f_norms, *afa.z_norms)
    traces = [
        go.Scatter(x=afa.z_norms, y=afa.f_norms, mode="markers", name="token", marker={"size": 4, "opacity": 0.45}),
        go.Scatter(x=ends, y=ends, mode="lines", name="‖f‖ = ‖z‖", line={"color": COLORS[3], "width": 2}),
    ]
    for band, dash in zip(afa.bands, ("dot", "dash", "longdash"), strict=True):
        for slope in (band.lower_slope, band.upper_slope):
            if slope is not None:
                traces.append(
                    go.Scatter(
                        x=ends,
                        y=[slope * end for end in ends],
                        mode="lines",
                        name=f"ε(h-1) = {band.epsilon_h:g}",
                        legendgroup=str(band.epsilon_h),
                        showlegend=slope == band.lower_slope,
                        line={"color": COLORS[5], "width": 1.2, "dash": dash},
                    )
                )
    figure = _figure(title, "‖z‖", "‖f‖", traces, height=480)
    figure.update_xaxes(range=ends).update_yaxes(range=[0, top])
    return figure, (
        f"Below the line a token is under-activated ({afa.under_activated} of them), above it over-activated"
        f" ({afa.over_activated}). {len(afa.z_norms):,} of {tokens:,} tokens, evenly spaced."
    )


def _bands(afa: AFAQuality) -> tuple[list[str], list[list[object]]]:
    columns = ["band ε(h-1)", "ε", "‖f‖/‖z‖ from", "to", "share of tokens inside", "n"]
    return columns, [
        [
            f"{band.epsilon_h:g}",
            f"{band.epsilon:.3g}",
            band.lower_slope,
            "no bound" if band.upper_slope is None else band.upper_slope,
            str(band.inside),
            f"{band.inside.n:,}",
        ]
        for band in afa.bands
    ]


def _positions(report: Report) -> list[Captioned]:
    n = (
        "Ranges of positions that double in length, ± one standard error over"
        f" {report.fvu.units('documents')}. n = {report.tokens:,} tokens."
    )
    plots: list[tuple[str, str, str, Callable[[Figures], Estimate | None]]] = [
        ("FVU", "FVU", COLORS[0], lambda figures: figures.fvu),
        ("Active latents", "L0", COLORS[2], lambda figures: figures.l0),
        (
            "Loss added by the SAE",
            "CE added (nats/token)",
            COLORS[3],
            lambda figures: figures.ce_difference,
        ),
        ("ε_LBO", "ε_LBO", COLORS[4], lambda figures: figures.epsilon_lbo),
    ]
    return [(_by_position(report, title, y, color, get), n) for title, y, color, get in plots]


def _by_position(
    report: Report, title: str, y: str, color: str, get: Callable[[Figures], Estimate | None]
) -> go.Figure:
    points = [(part, estimate) for part in report.positions if (estimate := get(part.figures)) is not None]
    trace = go.Scatter(
        x=[str(part.first) if part.first == part.last else f"{part.first}-{part.last}" for part, _ in points],
        y=[estimate.value for _, estimate in points],
        error_y={"type": "data", "array": [estimate.standard_error for _, estimate in points]},
        mode="lines+markers",
        line_color=color,
    )
    figure = _figure(title, "position in the row", y, [trace])
    return figure.update_xaxes(type="category").update_yaxes(rangemode="tozero", exponentformat="power")
