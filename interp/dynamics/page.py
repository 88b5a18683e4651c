"""The report as a page: what happened, one figure of all curves with the phase of induction, a table, the values."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from interp.checkpoints.curves import Curves
from interp.checkpoints.pages import add_missing, add_suspects
from interp.dynamics.changes import when
from interp.dynamics.report import Dynamics, Measured
from interp.pages.html_page import COLORS, Page
from interp.trajectory.fitting import Trajectory

COLUMNS = (
    "curve",
    "from",
    "to",
    "half-way between steps",
    "before induction",
    "in the phase",
    "emergence curve",
    "R²",
    "n",
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_MARKS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
_PLACES = {"before": 0, "with": 1, "after": 2, None: 0}


def build_page(found: Dynamics, curves: Mapping[str, Curves], *, data: str) -> Page:
    """Lay the report out; ``data`` names the text."""
    first = next(iter(curves.values()))
    page = Page(
        f"The training of {found.model}",
        subtitle=f"{len(first.points)} checkpoints, {len(found.suspect)} of them suspect, {len(found.missing)} missing"
        f" · text: {data}",
    )
    for sentence in found.answer():
        page.text(sentence)
    page.figures(phase_figure(found))
    page.heading("In order").table(COLUMNS, rows(found)).text(
        "Half-way: the checkpoints around the place where half of the change from the first value to the farthest is"
        " done, in 95 % of draws around the values with their standard errors; between checkpoints nothing is known."
        " Before induction: the probability of that, the places drawn evenly in log(step) within their checkpoints, so"
        " ½ where both changed between the same two. In the phase: share of the change there. The emergence curve is"
        " f(t) = A exp(-λx) ln x + K of interp.trajectory, fitted to the values, or to their negatives where they fall;"
        " a rival that does as well or better is named."
    )
    if found.still:
        page.text("Unchanged beyond noise: " + ", ".join(each.name for each in found.still) + ".")
    if found.left_out:
        page.heading("Left out").table(["what", "why"], list(found.left_out.items()))
    page.heading("Values").table(*_values(found), interactive=True)
    add_suspects(page, [(point.step, said) for point, said in zip(first.points, first.flags, strict=True)])
    add_missing(page, found.missing)
    return page.data("dynamics", found.to_json())


def phase_figure(found: Dynamics) -> tuple[go.Figure, str]:
    """Every curve as the share of its change that is done, with the phase of induction marked."""
    traces = []
    count = {place: 0 for place in _PLACES}
    for each in sorted(found.curves, key=lambda each: each is found.induction):  # which is drawn over the others
        place = found.place(each)
        number = count[place]
        count[place] += 1
        line = {"color": COLORS[_PLACES[place]], "width": 1.5, "dash": _DASHES[number % len(_DASHES)]}
        if each is found.induction:
            line = {"color": COLORS[3], "width": 4, "dash": "solid"}
        traces.append(
            go.Scatter(
                x=np.maximum(each.steps, 0.5),
                y=each.change.shares,
                name=each.name,
                mode="lines+markers",
                line=line,
                marker={"symbol": _MARKS[number % len(_MARKS)], "size": 6},
            )
        )
    figure = go.Figure(traces, {"title": "How much of each change is done", "height": 420 + 26 * len(traces)})
    figure.update_xaxes(type="log", title="training step").update_yaxes(title="share of the change")
    if found.phase is not None:
        low, high = (max(0.5, step) for step in found.phase)
        figure.add_vrect(x0=low, x1=high, fillcolor=COLORS[3], opacity=0.15, line_width=0)
    where = (
        ""
        if found.phase is None
        else " Red: induction, and the steps between which a tenth and nine tenths of it appear. Blue is half-way"
        " before that, orange with it as far as checkpoints tell, green after it."
    )
    return figure, (
        f"0 is the value at the first checkpoint, 1 that farthest from it, whether it rose or fell; step 0 is drawn at"
        f" 0.5. {len(traces)} curves.{where}"
    )


def rows(found: Dynamics) -> list[tuple[str, ...]]:
    """``COLUMNS`` of every curve that changed."""
    return [_row(found, each) for each in found.curves]


def _row(found: Dynamics, each: Measured) -> tuple[str, ...]:
    probability, share = found.probability(each), found.share_in_phase(each)
    change = each.change
    return (
        each.name,
        f"{change.first:.4g}",
        f"{change.extreme:.4g}",
        when(change),
        "-" if probability is None else f"{probability:.2f}",
        "-" if share is None else f"{share:.0%}",
        "too few points" if each.fit is None else _class(each.fit),
        "-" if each.fit is None else f"{each.fit.r2:.3f}",
        f"{each.samples:,}",
    )


def _class(fit: Trajectory) -> str:
    best = "" if fit.best_form == "emergence" else f"; better by AIC: {fit.best_form.replace('_', ' ')}"
    return fit.layer_class.replace("_", " ") + best


def _values(found: Dynamics) -> tuple[list[str], list[list[object]]]:
    shown = [*found.curves, *found.still]
    steps = sorted({step for each in shown for step in each.steps.tolist()})
    at = [dict(zip(each.steps.tolist(), each.values.tolist(), strict=True)) for each in shown]
    cells = [[f"{step:,.0f}", *(f"{its[step]:.4g}" if step in its else "-" for its in at)] for step in steps]
    return ["step", *(each.name for each in shown)], cells  # type: ignore[return-value]
