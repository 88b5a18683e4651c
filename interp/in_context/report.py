"""A training as tables on the terminal, and as a page."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Column, Table

from interp.in_context.measures import ACCURACIES, ATTENTION
from interp.in_context.training import Run
from interp.pages.html_page import COLORS, Page
from interp.trajectory.change_points import ChangePoints

_ROWS = 12
_CAPTION = "Mean over {n:,} sequences at each of {steps} checkpoints, ± one standard error; step 0 is left out."


def says(run: Run) -> str:
    """What a run was trained on, in a sentence."""
    c = run.config
    clamped = f" {', '.join(c.clamped)} clamped;" if c.clamped else ""
    return (
        f"{c.classes} classes, {c.labels} labels, contexts of {c.pairs} pairs, burstiness {c.burstiness};"
        f" {c.novel:.0%} of sequences of new classes;{clamped}"
        f" {run.steps[-1]:,} of {c.steps:,} steps of {c.batch} sequences"
    )


def title_of(name: str) -> str:
    """What a measure is; of attention with the layer, from 0."""
    what, _, layer = name.partition(".")
    return f"{ATTENTION[what]}, layer {layer}" if layer else ACCURACIES[what]


def curves_table(run: Run, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: some of the checkpoints, evenly spread, with the measures there."""
    chosen = sorted({round(i) for i in np.linspace(0, len(run.steps) - 1, _ROWS)})
    curves = [run.curve(name) for name in names]
    columns = ["step", *(name.replace("_", " ") for name in names)]
    return columns, [[f"{run.steps[i]:,}", *(f"{curve[i].value:.3f}" for curve in curves)] for i in chosen]


def changes_table(found: ChangePoints) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the curves that change, the earliest first."""
    columns = ["measure", "at step", "95 %", "from", "to", "R²", "earlier"]
    rows = []
    for name, following in zip_longest(found.order, found.order[1:]):
        point = found.points[name]
        rows.append(
            [
                name,
                f"{point.step:,.0f}",
                f"{point.interval[0]:,.0f}-{point.interval[1]:,.0f}",
                f"{point.before:.3f}",
                f"{point.after:.3f}",
                f"{point.explained:.2f}",
                f"{found.earlier[name][following]:.2f}" if following else "-",
            ]
        )
    return columns, rows


def unchanged(found: ChangePoints) -> str:
    """Which curves did not change, in a sentence; empty where all did."""
    names = [name for name in found.points if name not in found.order]
    return f"No clear change: {', '.join(names)}." if names else ""


def print_run(console: Console, run: Run, found: ChangePoints | None) -> None:
    """Accuracies, attention, chance, and what changed when."""
    console.print(says(run))
    for names in _groups(run):
        _print(console, *curves_table(run, names))
    for name, (guessing, copying) in run.chance.items():
        console.print(
            f"Chance of {name}: {guessing:.3f} by guessing, {copying:.3f} by copying some label of the context"
        )
    if found is not None:
        _print(console, *changes_table(found))
        console.print(_EXPLAINS, unchanged(found))


def page_of(run: Run, found: ChangePoints | None) -> Page:
    """Both groups of curves, change points with their intervals, and the order."""
    page = Page("Learning in context, and in weights", subtitle=says(run))
    last = {name: run.curve(name)[-1] for name in run.chance}
    page.cards(
        [(name.capitalize(), f"{each.value:.3f}", f"± {each.standard_error:.2g}") for name, each in last.items()]
    )
    caption = _CAPTION.format(n=run.config.sequences, steps=len(run.steps) - 1)
    accuracies, attention = _groups(run)
    page.figures(
        (_curves(run, accuracies, "Answers"), f"{caption} Dotted: new classes, by copying some label of the context."),
        (_curves(run, attention, "Attention, on sequences of new classes"), caption),
    )
    if found is not None and found.order:
        columns, rows = changes_table(found)
        page.heading("What changes first").figures((_intervals(found), "Change point and 95 % of bootstrap draws."))
        page.table(columns, rows).text(_EXPLAINS).text(unchanged(found))
    page.heading("Measures").table(["name", "what"], [[name, title_of(name)] for name in run.rows])
    return page


_EXPLAINS = (
    "Two levels over the logarithm of the step: the change is between two checkpoints, so that two curves can change"
    " at the same. R² is the share of the curve's variance (1 for a jump, 0.75 for a straight line). The last column is"
    " the share of bootstrap draws over sequences in which a measure changes at an earlier checkpoint than the one"
    " below. Another seed of the training may have another order."
)


def _groups(run: Run) -> tuple[list[str], list[str]]:
    return [name for name in ACCURACIES if name in run.rows], sorted(name for name in run.rows if "." in name)


def _print(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(Column(columns[0], no_wrap=True), *columns[1:], show_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _curves(run: Run, names: Sequence[str], title: str) -> go.Figure:
    figure = go.Figure(layout={"title": title, "height": 420})
    for i, name in enumerate(names):
        curve = run.curve(name)[1:]
        figure.add_scatter(
            x=run.steps[1:],
            y=[each.value for each in curve],
            error_y={"type": "data", "array": [each.standard_error for each in curve], "thickness": 1, "width": 0},
            name=name,
            mode="lines",
            line={"color": COLORS[i % len(COLORS)], "dash": "solid" if i < len(COLORS) else "dot"},
        )
    if "novel" in names:
        figure.add_hline(run.chance["novel"][1], line={"dash": "dot", "width": 1, "color": COLORS[5]})
    return figure.update_xaxes(type="log", title="training step")


def _intervals(found: ChangePoints) -> go.Figure:
    names = found.order[::-1]
    points = [found.points[name] for name in names]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [point.interval[1] - point.step for point in points],
        "arrayminus": [point.step - point.interval[0] for point in points],
    }
    figure = go.Figure(
        go.Scatter(
            x=[point.step for point in points],
            y=list(names),
            error_x=bars,
            mode="markers",
            marker={"color": COLORS[0], "size": 9},
        ),
        {"title": "When each measure changes", "height": 110 + 30 * len(names)},
    )
    return figure.update_xaxes(type="log", title="training step")
