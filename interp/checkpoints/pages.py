"""One page for all curves over training: a figure a quantity, fits on request, and what is wrong with checkpoints."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from interp.checkpoints.curves import Curves, Measurement, Quantity
from interp.checkpoints.results_file import Flags
from interp.checkpoints.text_report import cell
from interp.pages.html_page import COLORS, Page

_LINES = 12


def training_page(title: str, curves: Sequence[Curves], *, notes: Sequence[str] = ()) -> Page:
    """Every quantity of ``curves`` over the training step; ``notes`` are paragraphs before them.

    Example:
        >>> import torch
        >>> from interp.checkpoints import Measurement, quantity, sweep, training_page
        >>> def norm(model, tokens):
        ...     return {"norm": quantity([model.W_E.norm().item()])}
        >>> what = Measurement(name="embedding", code=1, run=norm, titles={"norm": "Norm of the embedding"})
        >>> run = sweep("embedded", torch.zeros(1, 2, dtype=torch.long), [what], "norms", steps="0,5792")
        >>> page = training_page("The embedded model", list(run.curves.values()), notes=["Its first and last step."])
        >>> page.write("norms.html").name
        'norms.html'
    """
    first = curves[0]
    suspects = sum(said.suspect for said in first.flags)
    page = Page(
        title, subtitle=f"{len(first.points)} checkpoints, {suspects} of them suspect, {len(first.missing)} missing"
    )
    for note in notes:
        page.text(note)
    for each in curves:
        if len(curves) > 1:
            page.heading(each.measurement.name.capitalize())
        page.figures(*(curve_figure(each, name) for name in each.names))
    add_suspects(page, [(point.step, said) for point, said in zip(first.points, first.flags, strict=True)])
    add_missing(page, first.missing)
    return page


def add_suspects(page: Page, steps: Sequence[tuple[int, Flags]]) -> None:
    """Which checkpoints share weights with others, where any do."""
    shared = [(step, said) for step, said in steps if said.identical_to or said.shares_blocks_with]
    if shared:
        page.heading("Checkpoints that share weights").table(
            ["step", "same weights as", "shares blocks with", "left out of fits"],
            [
                [
                    step,
                    ", ".join(map(str, said.identical_to)),
                    ", ".join(map(str, said.shares_blocks_with)),
                    "yes" if said.suspect else "no",
                ]
                for step, said in shared
            ],
        )


def add_missing(page: Page, missing: Mapping[int, str]) -> None:
    """Which checkpoints could not be had, and why, where there are any."""
    if missing:
        page.heading("Missing").table(["step", "why"], [[step, why] for step, why in sorted(missing.items())])


def curve_figure(curves: Curves, name: str) -> tuple[go.Figure, str]:
    """One quantity over training: a line a part with standard errors, or a heat map where there are many parts."""
    steps, values, errors, counts = curves.series(name, suspect=True)
    labels, title = curves.labels(name), curves.measurement.titles[name]
    x = np.maximum(steps, 0.5)
    samples = f"n = {counts[0]:,}" if len(set(counts)) == 1 else f"n = {min(counts):,} to {max(counts):,}"
    if len(labels) > _LINES:
        trace = go.Heatmap(x=[f"{s:g}" for s in steps], y=list(labels), z=values, colorscale="Viridis")
        figure = go.Figure(trace, {"title": title})
        figure.update_xaxes(title="training step", type="category").update_yaxes(type="category", title=_part(labels))
        return figure, f"{len(steps)} checkpoints, {samples} at each."
    traces = []
    for i, label in enumerate(labels):
        bars = {"type": "data", "array": np.nan_to_num(errors[i]).tolist()} if np.isfinite(errors[i]).any() else None
        color = {"color": COLORS[i % len(COLORS)], "dash": "solid" if i < len(COLORS) else "dot"}
        traces.append(go.Scatter(x=x, y=values[i], name=label, error_y=bars, line=color, mode="lines+markers"))
    figure = go.Figure(traces, {"title": title})
    figure.update_xaxes(type="log", title="training step")
    figure.update_layout(showlegend=len(labels) > 1, legend_title_text=_part(labels))
    error = ", ± one standard error" if np.isfinite(errors).any() else ""
    return figure, f"{len(steps)} checkpoints (step 0 drawn at 0.5), {samples} at each{error}."


def model_page(title: str, found: Sequence[tuple[Measurement, Mapping[str, Quantity]]], *, tokens: Tensor) -> Page:
    """Every quantity of one model: a bar a part."""
    page = Page(title, subtitle=f"{tokens.shape[0]} rows of {tokens.shape[1]} tokens")
    for what, quantities in found:
        if len(found) > 1:
            page.heading(what.name.capitalize())
        shown = {name: each for name, each in quantities.items() if name in what.titles}
        single = [(what.titles[n], cell(q, 0), f"{_named(q)}n = {q.n:,}") for n, q in shown.items() if _one(q)]
        page.cards(single)
        page.figures(*(_bars(what.titles[name], each) for name, each in shown.items() if len(each.labels) > 1))
    return page


def _one(found: Quantity) -> bool:
    return len(found.labels) == 1 and found.values[0] is not None


def _named(found: Quantity) -> str:
    """Of what the only value is, where that is no number."""
    return "" if found.labels[0].isdigit() else f"{found.labels[0]}; "


def _bars(title: str, found: Quantity) -> tuple[go.Figure, str]:
    known = any(error is not None for error in found.standard_errors)
    error = {"type": "data", "array": [error or 0.0 for error in found.standard_errors]} if known else None
    bars = go.Bar(x=list(found.labels), y=list(found.values), error_y=error, marker_color=COLORS[0])
    figure = go.Figure(bars, {"title": title})
    figure.update_xaxes(type="category", title=_part(found.labels))
    return figure, f"n = {found.n:,}{', ± one standard error' if known else ''}."


def _part(labels: Sequence[str]) -> str:
    """What labels count, where they are bare numbers: blocks, or heads of blocks."""
    if all(label.isdigit() or label == "all" for label in labels):
        return "block"
    return "block.head" if all(re.fullmatch(r"\d+\.\d+", label) for label in labels) else ""
