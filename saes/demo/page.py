"""The page that the demo writes: key figures, tables and figures, each with its definition and n."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from interp.massive import figures
from interp.massive.pages import add_fits
from interp.metrics import Estimate
from interp.pages.html_page import COLORS, Page
from saes.evaluation.report import DENSITY_EDGES

if TYPE_CHECKING:
    from saes.demo.result import DemoResult


def build_page(demo: "DemoResult") -> Page:
    """Lay the results out."""
    first = demo.saes[0].report
    page = Page(
        "Sparse autoencoders on the embedded model",
        subtitle=f"{demo.site} · trained on {demo.sizes.trained_tokens:,} activations ({len(demo.store):,} cached"
        f" tokens) · measured on {first.tokens:,} held-out tokens of {first.documents} documents",
    )
    for result in demo.saes:
        report, dark = result.report, result.dark_matter
        page.heading(f"{result.name} SAE").cards(
            [
                ("FVU", _pm(report.fvu), "variance unexplained, about the mean"),
                ("L0", _pm(report.l0), f"active latents a token, of {report.d_sae}"),
                ("CE recovered", _pm(report.ce_recovered_zero, percent=True), "1 is the clean model, 0 zero ablation"),
                ("Dead latents", _pm(report.dead_fraction, percent=True), f"silent on all {report.tokens:,} tokens"),
                ("Error linear in x", _pm(dark.r2_vector), "R² of the error vector, held out"),
            ]
        )
    page.heading("Reconstruction and the model's loss").table(
        ["figure", *(result.name for result in demo.saes)],
        [
            [label, *(_pm(getattr(result.report, name)) for result in demo.saes)]
            for label, name in (
                ("FVU", "fvu"),
                ("Explained variance", "explained_variance"),
                ("MSE a dimension", "mse"),
                ("Cosine", "cosine"),
                ("L0", "l0"),
                ("Dead fraction", "dead_fraction"),
                ("CE clean (nats/token)", "ce_clean"),
                ("CE with the SAE (nats/token)", "ce_spliced"),
                ("CE mean-ablated (nats/token)", "ce_mean"),
                ("CE zero-ablated (nats/token)", "ce_zero"),
                ("CE recovered, zero baseline", "ce_recovered_zero"),
                ("CE recovered, mean baseline", "ce_recovered_mean"),
                ("KL clean to SAE (nats/token)", "kl"),
            )
        ],
    )
    page.text(f"± is one standard error over {first.fvu.units('documents')} (for the dead fraction, over latents).")
    page.figures(_loss(demo), _curves(demo), _l0(demo), _density(demo))
    page.heading("Dark matter: what the SAEs miss").text(
        "The error x - SAE(x) is split into the part that a linear map of x predicts (least squares without intercept,"
        " fitted on other documents) and the rest. The nonlinear part is an upper bound on what the SAE introduced."
    )
    page.table(
        ["SAE", "FVU", "FVU nonlinear", "R² error vector", "R² vector, pooled", "R² squared norm", "n fit", "n judged"],
        [
            [
                r.name,
                *map(_pm, (d.fvu, d.fvu_nonlinear, d.r2_vector, d.r2_vector_pooled, d.r2_norm)),
                f"{d.n_train:,}",
                f"{d.n_test:,}",
            ]
            for r in demo.saes
            for d in (r.dark_matter,)
        ],
    )
    page.figures(_split(demo)).heading("Massive activations").text(
        "Largest magnitude over the median magnitude of the residual stream after each block: both over all positions"
        " and dimensions of a sequence, then a ratio of means over sequences."
    )
    final = demo.massive.measured[-1].stats
    page.figures(figures.ratio_figure(final.ratio), figures.training_heatmap(demo.massive))
    if demo.massive_fits:
        add_fits(page, demo.massive, demo.massive_fits)
    rows = [[name, f"{value:.1f}"] for name, value in demo.seconds.items()]
    return page.heading("Time").table(["step", "seconds"], rows)


Captioned = tuple[go.Figure, str]


def _pm(estimate: Estimate, *, percent: bool = False) -> str:
    """Value and standard error, to the first digit of the error."""
    scale, unit = (100, " %") if percent else (1, "")
    value, error = estimate.value * scale, estimate.standard_error * scale
    digits = min(5, max(0, -math.floor(math.log10(error)))) if 0 < error < math.inf else 1 if percent else 3
    return f"{value:.{digits}f} {replace(estimate, standard_error=error).error(f'.{digits}f')}{unit}"


def _figure(title: str, x: str, y: str, traces: list[Any], **layout: object) -> go.Figure:
    return go.Figure(traces, {"title": title, "xaxis_title": x, "yaxis_title": y, **layout})


def _error(estimates: list[Estimate]) -> dict[str, object]:
    return {"type": "data", "array": [estimate.standard_error for estimate in estimates]}


def _loss(demo: "DemoResult") -> Captioned:
    first = demo.saes[0].report
    bars = {
        "clean": first.ce_clean,
        **{f"{result.name} SAE": result.report.ce_spliced for result in demo.saes},
        "mean-ablated": first.ce_mean,
        "zero-ablated": first.ce_zero,
    }
    colors = [COLORS[2], *COLORS[:2], COLORS[5], COLORS[5]]
    estimates = list(bars.values())
    trace = go.Bar(x=list(bars), y=[e.value for e in estimates], error_y=_error(estimates), marker_color=colors)
    figure = _figure("Loss with the SAE in place of the activation", "", "cross-entropy (nats/token)", [trace])
    return figure, f"Next-token loss on held-out text, ± one standard error over {first.fvu.units('documents')}."


def _curves(demo: "DemoResult") -> Captioned:
    traces = [
        go.Scatter(
            x=[line["step"] * demo.sizes.batch_size for line in result.curve],
            y=[line["fvu"] for line in result.curve],
            name=result.name,
            line_color=color,
        )
        for result, color in zip(demo.saes, COLORS, strict=False)
    ]
    figure = _figure("Training", "activations seen", "FVU of the batch", traces, yaxis={"type": "log", "dtick": 1})
    return figure, f"Fraction of variance unexplained on training batches of {demo.sizes.batch_size:,}, log scale."


def _l0(demo: "DemoResult") -> Captioned:
    traces = [
        go.Bar(
            x=list(histogram),
            y=[n / result.report.tokens for n in histogram.values()],
            name=f"{result.name}, mean {result.report.l0.value:.1f}",
            marker_color=color,
            marker_line_width=0,
        )
        for result, color in zip(demo.saes, COLORS, strict=False)
        for histogram in (result.report.l0_histogram,)
    ]
    figure = _figure("Active latents a token", "L0", "share of tokens", traces, barmode="overlay", bargap=0)
    figure.update_layout(xaxis={"type": "log", "dtick": "D2"}, yaxis={"type": "log", "dtick": 1})
    return (
        figure,
        f"TopK fixes the number, top-AFA chooses it a token. n = {demo.saes[0].report.tokens:,} tokens.",
    )


def _density(demo: "DemoResult") -> Captioned:
    centres = [(a + b) / 2 for a, b in pairwise(DENSITY_EDGES)]
    traces = [
        go.Bar(x=centres, y=result.report.density_histogram, name=result.name, marker_color=color, opacity=0.75)
        for result, color in zip(demo.saes, COLORS, strict=False)
    ]
    figure = _figure("How often latents are active", "log10 share of tokens", "latents", traces, barmode="overlay")
    return figure, f"Latents that are active at least once in {demo.saes[0].report.tokens:,} held-out tokens."


def _split(demo: "DemoResult") -> Captioned:
    names = [result.name for result in demo.saes]
    splits = [result.dark_matter for result in demo.saes]
    linear = [split.fvu.value - split.fvu_nonlinear.value for split in splits]
    nonlinear = [split.fvu_nonlinear for split in splits]
    traces = [
        go.Bar(y=names, x=[e.value for e in nonlinear], name="nonlinear (upper bound)", marker_color=COLORS[3]),
        go.Bar(y=names, x=linear, name="linear in x", marker_color=COLORS[4]),
    ]
    for trace in traces:
        trace.orientation = "h"
    figure = _figure("Fraction of variance unexplained, split", "FVU", "", traces, barmode="stack", height=260)
    return figure, f"On {splits[0].n_test:,} tokens of documents that the probe was not fitted on."
