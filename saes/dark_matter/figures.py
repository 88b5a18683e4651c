"""The paper's figures of a study, in plotly; each with a caption that says definition and n."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from interp.metrics import Estimate
from interp.pages.html_page import COLORS
from saes.dark_matter.experiments.downstream import SPLICES
from saes.dark_matter.experiments.error_saes import PARTS
from saes.dark_matter.experiments.norm_prediction import VECTORS
from saes.dark_matter.experiments.power_law import Horizon
from saes.dark_matter.study import SAEStudy, Study

Captioned = tuple[go.Figure, str]
LINEAR, NONLINEAR, ABSENT = COLORS[4], COLORS[3], COLORS[0]
NAMES = {
    "x": "x",
    "x_hat": "SAE(x)",
    "error": "error",
    "linear": "linear error",
    "nonlinear": "nonlinear error",
    "sae": "SAE(x)",
    "sae_and_linear": "+ linear error",
    "sae_and_nonlinear": "+ nonlinear error",
    "sae_and_both": "+ both (= x)",
    "linear_error": "linear error",
    "nonlinear_error": "nonlinear error",
}
_TOKENS_SHOWN = 400


def fvu_stack(study: Study) -> Captioned:
    """FVU of every SAE, cut into the two parts."""
    ordered = sorted(study.saes, key=lambda one: (one.d_sae, one.name))
    names = [one.name for one in ordered]
    nonlinear = [one.split.fvu_nonlinear for one in ordered]
    linear = [one.split.fvu.value - one.split.fvu_nonlinear.value for one in ordered]
    traces = [
        _bars(names, nonlinear, name="nonlinear (upper bound)", color=NONLINEAR),
        go.Bar(x=names, y=linear, name="linear in x", marker_color=LINEAR),
    ]
    figure = _figure("Fraction of variance unexplained, split", "", "FVU", traces, barmode="stack")
    return figure, f"SAEs by width. ± one standard error over {nonlinear[0].units('held-out documents')}."


def horizon_plot(one: Horizon, group: Sequence[SAEStudy]) -> Captioned:
    """The paper's horizon: absent features, linear and nonlinear error by width."""
    widths = list(one.widths)
    layers = (
        ("nonlinear error (upper bound)", [one.nonlinear] * len(widths), NONLINEAR),
        ("linear error", [one.linear] * len(widths), LINEAR),
        ("absent features", list(one.absent), ABSENT),
    )
    traces: list[Any] = [
        go.Scatter(x=widths, y=y, name=name, stackgroup="parts", mode="lines", line={"width": 0}, fillcolor=color)
        for name, y, color in layers
    ]
    fvu = [sae.split.fvu for sae in group]
    marks = {"color": COLORS[5], "size": 9}
    traces.append(
        go.Scatter(x=widths, y=[e.value for e in fvu], error_y=_error(fvu), name="FVU", mode="markers", marker=marks)
    )
    law = one.law
    figure = _figure("Horizon over widths", "latents", "FVU", traces, xaxis_type="log")
    return figure, (
        f"FVU(W) = {law.c.value:.4f} + {law.a.value:.3g} W^-{law.m.value:.3f} through {law.points} widths, c from"
        f" {law.c.low:.3g} to {law.c.high:.3g} (95 %). With few widths the law is a guess."
    )


def norm_violin(study: Study) -> Captioned:
    """R² of predicting each vector's squared norm from x, over SAEs."""
    traces = []
    for vector, color in zip(VECTORS, (COLORS[5], COLORS[0], COLORS[1], LINEAR, NONLINEAR), strict=True):
        values = [one.norms.r2[vector].value for one in study.saes]
        traces.append(
            go.Violin(
                y=values,
                text=[one.name for one in study.saes],
                name=NAMES[vector],
                points="all",
                pointpos=0,
                line_color=color,
                spanmode="hard",
            )
        )
    figure = _figure("Squared norms predicted from x", "", "R², held out", traces, showlegend=False)
    return figure, f"Linear map of x without intercept; a point for each of {len(study.saes)} SAEs."


def norm_baselines(study: Study) -> Captioned:
    """R² of the squared error norm from x and from simpler things."""
    first = study.saes[0].split.norm_baselines
    names = ["x, no intercept", "x, intercept", *(name.replace("_", " ") for name in first)]
    traces = []
    for one in study.saes:
        by_kind = {f.fit_intercept: f.r2_norm for f in reversed(one.split.figures)}
        found = [by_kind[False], by_kind[True], *one.split.norm_baselines.values()]
        traces.append(_bars(names, found, name=one.name))
    figure = _figure("Squared error norm: what predicts it", "", "R², held out", traces, barmode="group")
    return figure, "Token and position: class means; the others: a line. All fitted on other documents than they judge."


def token_scatter(study: Study) -> Captioned:
    """Error norms per token: the first SAE's against those of the widest (against ||x|| where there is one SAE)."""
    first, last = study.saes[0], max(study.saes, key=lambda one: one.d_sae)
    held = first.split.held.nonzero()[:, 0]
    shown = held[torch.linspace(0, len(held) - 1, min(_TOKENS_SHOWN, len(held))).long()]
    alone = first is last
    x = first.norms.squared_norms[shown, VECTORS.index("x" if alone else "error")].sqrt()
    y = last.norms.squared_norms[shown, VECTORS.index("error")].sqrt()
    marks = {"size": 5, "opacity": 0.6}
    trace = go.Scatter(x=x.tolist(), y=y.tolist(), mode="markers", marker=marks)
    label = "||x||" if alone else f"||error|| of {first.name}"
    figure = _figure("Error norm per token", label, f"||error|| of {last.name}", [trace])
    return figure, f"{len(shown)} held-out tokens, evenly spaced in the text."


def loss_bars(study: Study) -> Captioned:
    """Cross-entropy that each splice adds."""
    measured = [(one, one.downstream) for one in study.saes if one.downstream is not None]
    names = [NAMES[name] for name in SPLICES]
    traces = [_bars(names, list(down.ce_added.values()), name=one.name) for one, down in measured]
    figure = _figure("Loss added, with each part put back", "", "nats/token above clean", traces, barmode="group")
    first = measured[0][1]
    return figure, (
        f"Clean: {first.ce_clean.value:.3f} nats/token. {first.tokens:,} tokens; ± one standard error over"
        f" {first.ce_clean.units('held-out documents')}."
    )


def components_bars(one: SAEStudy) -> Captioned:
    """R² of the error and its parts from earlier components."""
    assert one.components is not None
    traces = [
        _bars(
            list(one.components.r2),
            [by_target[target] for by_target in one.components.r2.values()],
            name=NAMES[target],
            color=color,
        )
        for target, color in (("error", COLORS[1]), ("linear", LINEAR), ("nonlinear", NONLINEAR))
    ]
    figure = _figure(f"{one.name}: error from earlier SAEs", "", "R², held out", traces, barmode="group")
    return figure, "Regressors: what the SAEs at these sites put out, without intercept. Mean over dimensions."


def error_sae_points(one: SAEStudy) -> Captioned:
    """FVU of the SAEs trained on each part, a point a seed."""
    assert one.error_saes is not None
    traces = [
        go.Scatter(
            x=[NAMES[part]] * len(found),
            y=[e.value for e in found],
            error_y=_error(found),
            mode="markers",
            marker={"size": 9, "color": color},
            name=NAMES[part],
        )
        for (part, found), color in zip(one.error_saes.fvu.items(), (LINEAR, NONLINEAR), strict=True)
    ]
    figure = _figure(f"{one.name}: SAEs on its error", "", "FVU of the part", traces, showlegend=False)
    return figure, f"A point for each of {len(one.error_saes.fvu[PARTS[0]])} seeds; same budget for both parts."


def _figure(title: str, x: str, y: str, traces: Sequence[Any], **layout: object) -> go.Figure:
    return go.Figure(traces, {"title": title, "xaxis_title": x, "yaxis_title": y, **layout})


def _bars(x: Sequence[str], estimates: Sequence[Estimate], *, name: str, color: str | None = None) -> go.Bar:
    return go.Bar(x=x, y=[e.value for e in estimates], error_y=_error(estimates), name=name, marker_color=color)


def _error(estimates: Sequence[Estimate]) -> Mapping[str, object]:
    return {"type": "data", "array": [e.standard_error for e in estimates]}
