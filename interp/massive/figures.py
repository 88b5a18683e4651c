"""Figures about massive activations; each comes with a caption that says what was measured and on how much."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from interp.massive.attention import SinkStats
from interp.massive.stats import LayerStats
from interp.massive.sweep_table import Quantity, SweepTable
from interp.metrics import Estimate
from interp.pages.html_page import COLORS
from interp.trajectory.fitting import Trajectory

Captioned = tuple[go.Figure, str]
_SHORT = {"ratio": "ratio", "mean_of_ratios": "ratio", "top1": "largest", "median": "median"}
TITLES: dict[str, str] = {
    "ratio": "largest magnitude / median",
    "mean_of_ratios": "largest magnitude / median",
    "top1": "largest magnitude",
    "median": "median magnitude",
}


def layers_figure(stats: LayerStats) -> Captioned:
    """Largest magnitudes and median of every layer."""
    layers = list(range(len(stats.sites)))
    sequences = stats.values.shape[1]
    traces = [
        go.Scatter(
            x=layers,
            y=stats.values[..., rank].abs().mean(1).tolist(),
            name=f"top {rank + 1}",
            line_color=COLORS[rank % len(COLORS)],
        )
        for rank in range(min(3, stats.values.shape[2]))
    ]
    median = [estimate.value for estimate in stats.median]
    traces.append(go.Scatter(x=layers, y=median, name="median", line={"color": COLORS[5], "dash": "dash"}))
    figure = go.Figure(traces, {"title": "Magnitudes in the residual stream", "xaxis_title": "after block"})
    figure.update_yaxes(type="log", dtick=1, title="magnitude")
    return figure, f"Mean over {sequences} sequences of the largest three of all positions and dimensions."


def ratio_figure(estimates: Sequence[Estimate]) -> Captioned:
    """The ratio of every layer."""
    error = {"type": "data", "array": [e.standard_error if math.isfinite(e.standard_error) else 0 for e in estimates]}
    bars = go.Bar(x=list(range(len(estimates))), y=[e.value for e in estimates], error_y=error, marker_color=COLORS[0])
    figure = go.Figure(bars, {"title": "Largest magnitude over the median", "xaxis_title": "after block"})
    figure.update_yaxes(type="log", title="ratio of means", dtick=1)
    return figure, f"Ratio of means, ± one standard error over {estimates[0].n} sequences."


def surface_figure(
    hidden: Float[Tensor, "position d"], words: Sequence[str], *, layer: int, positions: int = 24, dims: int = 60
) -> Captioned:
    """|activation| by token and dimension: the first positions, and the dimensions with the largest entries among
    others evenly spread over the rest."""
    magnitudes = hidden[:positions].abs().float().cpu().numpy()
    width = magnitudes.shape[1]
    largest = np.argsort(-magnitudes.max(0), kind="stable")[: dims // 6]
    spread = np.linspace(0, width - 1, min(width, dims - len(largest))).round().astype(int)
    chosen = np.unique(np.concatenate([largest, spread]))
    labels = [f"{i} {escape(word.strip()[:12])}" for i, word in enumerate(words[: len(magnitudes)])]
    surface = go.Surface(z=magnitudes[:, chosen], colorscale="Viridis", showscale=False)
    figure = go.Figure(surface, {"title": f"|activation| after block {layer}", "height": 460})
    every = max(1, len(labels) // 8)
    ticks = [int(np.searchsorted(chosen, dim)) for dim in sorted(largest[:2].tolist())]
    figure.update_layout(
        scene={
            "xaxis": {"title": "dimension", "tickvals": ticks, "ticktext": [str(chosen[tick]) for tick in ticks]},
            "yaxis": {"title": "token", "tickvals": list(range(0, len(labels), every)), "ticktext": labels[::every]},
            "zaxis": {"title": "magnitude"},
            "aspectratio": {"x": 1.2, "y": 1.2, "z": 0.7},
            "camera": {"eye": {"x": 1.6, "y": 1.5, "z": 0.9}},
        }
    )
    caption = (
        f"First sequence, first {len(magnitudes)} tokens; {len(chosen)} of {width} dimensions, the largest among them."
    )
    return figure, caption


def heads_figure(sinks: SinkStats, *, position: int = 0) -> Captioned:
    """Attention of every head to the sink."""
    received = sinks.importance[..., position].mean(1).numpy()
    trace = go.Heatmap(z=received, zmin=0, zmax=1, colorscale="Viridis", colorbar={"title": "share"})
    figure = go.Figure(trace, {"title": f"Attention that position {position} receives", "xaxis_title": "head"})
    figure.update_yaxes(title="block", autorange="reversed").update_xaxes(dtick=max(1, received.shape[1] // 16))
    _, sequences, _, length = sinks.importance.shape
    return figure, f"Mean over queries and {sequences} sequences of {length} tokens; a sink takes more than 0.3."


def pattern_figure(pattern: Float[Tensor, "head query key"], *, layer: int, shown: int = 48) -> Captioned:
    """Where a layer looks, averaged over its heads."""
    mean = pattern.float().mean(0)[:shown, :shown].cpu().numpy()
    figure = go.Figure(
        go.Heatmap(z=mean, zmin=0, zmax=1, colorscale="Viridis", colorbar={"title": "share"}),
        {"title": f"Attention of block {layer}, mean of heads", "xaxis_title": "key", "yaxis_title": "query"},
    )
    figure.update_yaxes(autorange="reversed")
    return figure, f"First sequence, first {len(mean)} tokens, {len(pattern)} heads."


def training_heatmap(table: SweepTable, quantity: Quantity = "ratio") -> Captioned:
    """Layer by step."""
    steps, values = table.series(quantity, suspect=True)
    marks = [f"{row.step}{' *' if row.suspect else ''}" for row in table.rows]
    exponents = list(range(math.floor(np.log10(values.min())), math.ceil(np.log10(values.max())) + 1))
    bar = {"title": _SHORT[quantity], "tickvals": exponents, "ticktext": [f"{10.0**e:g}" for e in exponents]}
    if len(exponents) < 3:  # less than two decades
        ticks = np.linspace(np.log10(values.min()), np.log10(values.max()), 4)
        bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{10**e:.3g}" for e in ticks]}
    trace = go.Heatmap(x=marks, y=list(range(len(values))), z=np.log10(values), colorscale="Viridis", colorbar=bar)
    figure = go.Figure(trace, {"title": f"{TITLES[quantity].capitalize()} over training"})
    figure.update_xaxes(title="training step", type="category").update_yaxes(title="after block", dtick=_tick(values))
    starred = (
        "; * marks a step whose weights are those of another, which fits leave out" if " *" in "".join(marks) else ""
    )
    return figure, f"{len(steps)} checkpoints, colour on a log scale{starred}."


def fits_figure(table: SweepTable, fits: Sequence[Trajectory], quantity: Quantity = "ratio") -> Captioned:
    """Every layer's points and fitted curve."""
    steps, values = table.series(quantity)
    columns = min(4, len(fits))
    rows = -(-len(fits) // columns)
    titles = [f"block {layer}: {fit.layer_class.replace('_', ' ')}" for layer, fit in enumerate(fits)]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.32 / rows, horizontal_spacing=0.06)
    fine = np.concatenate([[0.0], np.geomspace(1, steps[-1], 120)])
    for layer, fit in enumerate(fits):
        place = {"row": layer // columns + 1, "col": layer % columns + 1}
        # Step 0 has no place on a logarithmic axis; it stands at one half.
        marks = {"mode": "markers", "marker": {"color": COLORS[0], "size": 5}, "showlegend": layer == 0}
        figure.add_trace(go.Scatter(x=np.maximum(steps, 0.5), y=values[layer], name="measured", **marks), **place)
        line = {"mode": "lines", "line": {"color": COLORS[1]}, "showlegend": layer == 0}
        figure.add_trace(go.Scatter(x=np.maximum(fine, 0.5), y=fit.curve(fine), name="fitted", **line), **place)
    figure.update_xaxes(type="log", dtick=2).update_annotations(font_size=12)
    figure.update_layout(height=90 + 190 * rows, title=f"{TITLES[quantity].capitalize()}: fits of equation 9")
    caption = (
        f"{len(steps)} checkpoints; steps on a log scale (0 drawn at 0.5) although the fit is in linear steps. Mean R²"
        f" {np.mean([fit.r2 for fit in fits]):.3f}, which depends on which steps were measured."
    )
    return figure, caption


def _tick(values: np.ndarray) -> int:
    return max(1, len(values) // 12)
