"""Heat maps of scores, and the pages that the commands write. Text of prompts is shown as text, never as HTML."""

import math
from typing import TYPE_CHECKING

import networkx
import plotly.graph_objects as go
from torch import Tensor

from circuits.circuit import Circuit, layer_of
from circuits.comparison import Comparison
from circuits.faithfulness import Curve, Faithfulness
from circuits.mib.areas import MIBAreas
from circuits.scores.nodes import Scores
from circuits.tasks.task import Task
from interp.arguments.kinds import require
from interp.metrics import Estimate
from interp.pages.html_page import COLORS, Page

if TYPE_CHECKING:
    from circuits.explorer.explorer import Explorer

_NAMES = {
    "resid_pre": "Residual stream before each block",
    "resid_mid": "Residual stream between attention and MLP",
    "resid_post": "Residual stream after each block",
    "attn_out": "Attention outputs",
    "mlp_out": "MLP outputs",
    "z": "Heads",
    "embed": "Embeddings",
}


def heat_map(scores: Scores, *, title: str | None = None, most: float | None = None) -> go.Figure:
    """Layer by position (heads become rows of their layer); white is 0, and both ends of the scale are equally far: at
    ``most``, by default the largest absolute score.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute(model, task, nodes="attn_out", method="atp")
        >>> type(circuits.heat_map(scores)).__name__
        'Figure'
    """
    require(scores, Scores, what="scores of nodes", fix="what circuits.attribute(model, task, nodes=...) returns")
    values = scores.values.detach().cpu()
    rows = [f"{layer}" for layer in range(len(values))]
    if scores.axes == ("layer", "position", "head") or scores.axes == ("layer", "head"):
        heads = values.shape[-1]
        if "position" in scores.axes:
            rows = [f"{layer}.{head}" for layer in range(len(values)) for head in range(heads)]
            values = values.transpose(1, 2).flatten(0, 1)
    elif values.ndim != 2:
        raise ValueError(f"scores with axes {', '.join(scores.axes)} cannot be drawn as one map; use Scores.top(k)")
    by_position = "position" in scores.axes
    columns = _labels(scores, values) if by_position else [f"{i}" for i in range(values.shape[1])]
    most = most or float(values.abs().max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            x=list(range(values.shape[1])),
            y=list(range(len(rows))),
            customdata=[[[row, column] for column in columns] for row in rows],
            hovertemplate="%{customdata[0]} · %{customdata[1]}<br>%{z:.4f}<extra></extra>",
            zmin=-most,
            zmax=most,
            colorscale="RdBu",
            zmid=0,
        )
    )
    figure.update_xaxes(tickvals=list(range(values.shape[1])), ticktext=columns, tickangle=-60, title_text="")
    step = max(1, len(rows) // 30)
    figure.update_yaxes(
        tickvals=list(range(0, len(rows), step)),
        ticktext=rows[::step],
        title_text="layer.head" if values.shape[0] != len(scores.values) else "layer",
    )
    return figure.update_layout(
        title=title or _NAMES.get(scores.family, scores.family), height=min(900, 220 + 14 * len(rows))
    )


def _labels(scores: Scores, values: Tensor) -> list[str]:
    """Tokens with their positions, as plotly shows them without reading tags in them."""
    tokens = scores.labels or [""] * values.shape[1]
    shown = [token.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for token in tokens]
    return [f"{token} {position}".replace("\n", "⏎") for position, token in enumerate(shown)]


def patch_page(comparison: Comparison, task: Task, *, model_name: str) -> Page:
    """Exact patching and each estimate side by side, family by family, with how well they agree."""
    first = next(iter(comparison.exact.values()))
    page = Page(
        f"Patching {task.name} in {model_name}",
        subtitle=f"{first.n} prompts of {task.length} tokens · {task.metric_name} · direction {task.direction}",
    )
    page.cards(
        [
            (task.metric_name, f"{first.clean_metric:.3f}", "on the clean prompts: 1 on the scale of the maps"),
            (task.metric_name, f"{first.corrupt_metric:.3f}", "on the corrupt prompts: 0"),
            ("Exact patching", f"{comparison.seconds['exact']:.1f} s", f"{first.cost.forwards:.0f} forward passes"),
        ]
    )
    page.heading("Agreement with exact patching").table(*agreement_table(comparison)).text(
        "Pearson's correlation over all cells, with 95 % of bootstrap samples of prompts, and over the cells that"
        " patching changes at all. Correlations do not see scale: the slope does, and is 1 where"
        " estimates have the right size."
    )
    page.text(
        "AtP: the change of the activation times the metric's gradient. The others take relevance in the gradient's"
        " place (Relevance Patching). LN: the scale of norms is held constant. Id: an activation function of x counts"
        " as x times the constant f(x) / x. Half: each branch of a product gets half. All four: attention patterns"
        " are held constant too, so that queries and keys have no share."
    )
    for family, exact in comparison.exact.items():
        page.heading(_NAMES.get(family, family))
        most = float(exact.values.abs().max())
        note = f"Change of the metric when one node is patched, n = {exact.n}. All maps have this scale."
        maps = [(heat_map(exact, title="exact patching"), note)]
        maps += [
            (heat_map(variant[family], title=name, most=most), f"Estimate; {variant[family].cost.forwards:g} forwards,"
             f" {variant[family].cost.backwards:g} backward, {comparison.seconds[name]:.2f} s.")
            for name, variant in comparison.estimates.items()
        ]  # fmt: skip
        page.figures(*maps)
    return page.data("comparison", comparison.to_json())


def agreement_table(comparison: Comparison) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the agreement of every family and variant."""
    columns = ["nodes", "method", "Pearson", "95 %", "non-zero cells", "slope", "rank"]
    rows: list[list[object]] = []
    for family in comparison.exact:
        for name, variant in comparison.estimates.items():
            own = variant[family].agreement
            assert own is not None
            rows.append(
                [family, name, f"{own.pearson:.3f}", own.interval_text, f"{own.pearson_nonzero:.3f}",
                 f"{own.slope:.2f}", f"{own.rank:.3f}"]
            )  # fmt: skip
    return columns, rows


def circuit_graph(circuit: Circuit) -> go.Figure:
    """The circuit from the input below to the logits above, a row for each stage of the model; wider edges score
    higher, blue ones are positive and red ones negative.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> type(circuits.circuit_graph(circuits.Circuit.from_edges(scores).prune(size=20))).__name__
        'Figure'
    """
    graph = circuit.to_networkx()
    stages = {node: _stage(node) for node in graph}
    networkx.set_node_attributes(graph, stages, "stage")
    places = networkx.multipartite_layout(graph, subset_key="stage", align="horizontal")
    rank = {stage: row for row, stage in enumerate(sorted(set(stages.values())))}
    most = max((abs(score) for score in circuit.edges.values()), default=0) or 1.0
    figure = go.Figure()
    for u, v, edge in graph.edges(data=True):
        figure.add_scatter(
            x=[places[u][0], places[v][0]],
            y=[rank[stages[u]], rank[stages[v]]],
            mode="lines",
            line={
                "width": 0.5 + 5 * abs(edge["score"]) / most,
                "color": "#2166ac" if edge["score"] >= 0 else "#b2182b",
            },
            opacity=0.55,
            text=f"{u} → {edge['reader']}: {edge['score']:.4f}",
            hoverinfo="text",
            showlegend=False,
        )
    figure.add_scatter(
        x=[places[node][0] for node in graph],
        y=[rank[stages[node]] for node in graph],
        mode="markers+text",
        marker={"size": 16, "color": COLORS[5]},
        text=list(graph),
        textposition="middle right",
        customdata=[graph.nodes[node]["score"] for node in graph],
        hovertemplate="%{text}: %{customdata:.4f}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.update_layout(title="Circuit, from the input (below) to the logits", height=200 + 70 * len(rank))


def _uncertainty(estimate: Estimate) -> str:
    error = "" if estimate.n == 1 else f"± {estimate.standard_error:.1g}, "
    return f"{error}n = {estimate.n}"


def _stage(node: str) -> float:
    """Heads of a layer stand below its MLP."""
    return layer_of(node) + (0.5 if node.startswith("m") else 0.0)


def faithfulness_by_size(curve: Curve) -> go.Figure:
    """Faithfulness of circuits of every size, 0 edges among them, which a logarithmic axis would drop: sizes stand at
    log(1 + edges)."""
    most = max(curve.edges, default=1)
    ticks = [0, *(10**power for power in range(len(str(most))))]
    figure = go.Figure(
        go.Scatter(
            x=[math.log10(1 + edges) for edges in curve.edges],
            y=[point.value for point in curve.faithfulness],
            error_y={"array": curve.standard_error},
            customdata=curve.edges,
            hovertemplate="%{customdata} edges: %{y:.3f}<extra></extra>",
            mode="lines+markers",
            line_color=COLORS[0],
        )
    )
    figure.update_xaxes(
        title_text="edges kept", tickvals=[math.log10(1 + tick) for tick in ticks], ticktext=[f"{t:,}" for t in ticks]
    )
    return figure.update_yaxes(title_text="faithfulness").update_layout(title="Metric with the rest ablated")


def circuit_page(
    circuit: Circuit,
    measured: Faithfulness,
    curve: Curve,
    task: Task,
    *,
    model_name: str,
    method: str,
    explorer: "Explorer | None" = None,
    mib: MIBAreas | None = None,
) -> Page:
    """A circuit's figures, its graph, its faithfulness by size, and its edges from the strongest.

    With an ``explorer`` the graph can be explored; without, it is a plain figure. ``mib`` adds the benchmark's figures.
    """
    page = Page(
        f"Circuit for {task.name} in {model_name}",
        subtitle=f"{len(task)} prompts · edges by {method} · {measured.ablation} ablation",
    )
    page.cards(
        [
            ("Faithfulness", f"{measured.faithfulness:.3f}", _uncertainty(measured.faithfulness)),
            ("Completeness", f"{measured.completeness:.3f}", "of what was left out: 0 is best"),
            ("Edges", f"{measured.edges}", f"of {curve.edges[-1]}"),
            ("Area", f"{curve.area:.3f}", "under faithfulness by size"),
            ("Distance", f"{curve.distance:.3f}", "area under its distance from 1"),
        ]
        + (
            []
            if mib is None
            else [
                ("CPR", f"{mib.cpr:.3f}", "circuit performance ratio, by MIB's recipe"),
                ("CMD", f"{mib.cmd:.3f}", "circuit-model distance, by MIB's recipe: 0 is best"),
            ]
        )
    )
    caption = "Nodes are heads and MLPs; an edge is drawn to each head that shares its reader."
    if explorer is None:
        page.heading("Graph").figures((circuit_graph(circuit), caption))
    else:
        page.heading("Graph").part(explorer.fragment()).text(caption)
    note = f"1 is the model, 0 all ablated; n = {curve.n}."
    page.heading("Faithfulness by size").figures((faithfulness_by_size(curve), note))
    edges = [(u, v, score) for (u, v), score in circuit.edges.items()]
    strongest = sorted(edges, key=lambda edge: -abs(edge[2]))[:100]
    page.heading("Edges").table(["writer", "reader", "score"], [[u, v, f"{score:.4f}"] for u, v, score in strongest])
    return page.data("edges", edges)
