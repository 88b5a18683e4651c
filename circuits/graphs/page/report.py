"""The page of a graph: its drawing with a panel of what is chosen, figures of what was measured, and all as tables."""

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from circuits.explorer.attribution import GraphExplorer
from circuits.graphs.graph import PrunedGraph
from circuits.graphs.logit_effects import Pairs, token_effects
from circuits.graphs.measured.measurement import VERDICTS, Agreement, Measurement
from interp.pages.html_page import COLORS, Page
from saes.features.examples import Text

Words = dict[int, tuple[Pairs, Pairs]]
_LONGEST_TITLE = 120


def graph_page(
    pruned: PrunedGraph,
    *,
    measurement: Measurement | None = None,
    labels: Mapping[int, str] | None = None,
    text: Text | None = None,
) -> Page:
    """A pruned graph, and what was measured of its edges, as a page; ``.write(path)`` makes one file of it.

    Args:
        pruned: The graph, which the page's sliders prune further or less.
        measurement: What was measured of its edges.
        labels: By node number what it stands for.
        text: Where top examples of latents are looked up, as for :class:`circuits.GraphExplorer`.

    Raises:
        ValueError: a measurement of another graph.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import graph_page
        >>> graph_page(graph.prune(nodes=0.5)).write("graph.html").name
        'graph.html'
    """
    if measurement is not None and measurement.pruned is not pruned:
        raise ValueError("the measurement is of another pruned graph: pass measurement.pruned, or measure this one")
    graph = pruned.graph
    words = token_effects(graph, pruned.kept)
    explorer = GraphExplorer(pruned, measurement=measurement, labels=labels, text=text)
    prompt = graph.prompt if len(graph.prompt) <= _LONGEST_TITLE else f"{graph.prompt[:_LONGEST_TITLE]} …"
    page = Page(f"Attribution graph: {prompt}", subtitle=f"{graph.model}, {len(graph.tokens)} tokens")
    page.cards(_cards(pruned, measurement)).heading("The graph")
    page.part(explorer.fragment(details=len(explorer.graphs["position"]["nodes"])))
    if measurement is not None:
        _measured(page, measurement)
    page.heading("Nodes").text(
        "Influence: share in the targets, over all paths. Value: of a latent its activation, of a target its logit (or"
        " difference of logits), of errors and tokens their norm. Layer -1 are tokens, the last one is the targets."
        " Raises, lowers: the tokens whose logits a latent changes most."
    )
    page.table(*_node_table(pruned, words), interactive=True)
    page.heading("Edges").text(
        "What a source adds to its target: to a latent before its activation function, to the logit of a target."
    )
    page.table(*_edge_table(pruned, measurement), interactive=True)
    return page


def _cards(pruned: PrunedGraph, measurement: Measurement | None) -> list[tuple[str, str, str]]:
    graph, scores = pruned.graph, pruned.graph.scores
    shares = ", ".join(
        f"{name!r} {weight:.3f}"
        for name, weight in zip(graph.target_names, graph.weights[-len(graph.target_names) :], strict=True)
    )
    cards = [
        ("Targets", f"{len(graph.target_names)}", shares),
        ("Replacement score", f"{scores.replacement:.3f}", "influence of tokens over that of tokens and errors"),
        ("Completeness", f"{scores.completeness:.3f}", "share of what enters nodes that is no error, by influence"),
        ("Nodes", f"{len(pruned):,}", f"of {len(graph):,}; {graph.n_active:,} latents are active"),
        ("Edges", f"{len(pruned.links):,}", f"{pruned.settings['edges']:.0%} of {graph.adjacency.nnz:,} by influence"),
    ]
    if measurement is not None:
        direct, paths = measurement.agreement("live"), measurement.agreement("live", total=True)
        if "live" in measurement.effects:
            note = f"{paths.correlation:.2f} with sums over all paths; n = {direct.n:,} edges"
            cards.append(("Edges with live effects", f"r = {direct.correlation:.2f}", note))
        if (again := measurement.replication) is not None:
            note = f"{again.share('contradicted'):.0%} contradicted, on {again.prompts} other prompts"
            cards.append(("Edges that replicate", f"{again.share('replicates'):.0%}", note))
        if measurement.above_null is not None:
            note = "of edges: their sign, and more than 95 % of matched random latents"
            cards.append(("Above the null", f"{measurement.above_null.mean():.0%}", note))
    return cards


def _measured(page: Page, found: Measurement) -> None:
    page.heading("Edges against the model")
    page.text(
        "Each source is taken out of the model, and each of its targets read. Direct: everything else is held, which is"
        " what an edge claims. Frozen attention: patterns are held, MLPs and norms answer. Live: nothing is held. The"
        " effect has the sign of the edge where the edge is right. r is Pearson's correlation of effects with edges; r,"
        " paths, with what edges sum to over all paths, live."
    )
    figures = [(_scatter(found), _caption(found))]
    if found.replication is not None:
        figures.append((_verdicts(found), f"n = {len(found):,} edges, each by the 95 % interval of its mean effect"))
    page.figures(*figures)
    columns = ("edge", "layers between", "n", "r, frozen", "slope, frozen", "r, live", "slope, live", "r, paths")
    rows = [
        (kind, distance, frozen.n or live.n, *_pair(frozen), *_pair(live), _pair(paths)[0])
        for kind, distance, frozen, live, paths in found.table()
    ]
    page.table(columns, rows)


def _caption(found: Measurement) -> str:
    mode = "live" if "live" in found.effects else found.null_mode
    return f"Edges, and what taking out the source does ({mode}), coloured by layers between; n = {len(found):,}"


def _pair(agreement: Agreement) -> tuple[str, str]:
    if math.isnan(agreement.correlation):
        return "-", "-"
    return f"{agreement.correlation:.2f}", f"{agreement.slope:.2f}"


def _scatter(found: Measurement) -> go.Figure:
    values = found.effects.get("live", found.in_null_mode)
    figure = go.Figure()
    for number, distance in enumerate(sorted(set(found.distance.tolist()))):
        chosen = found.distance == distance
        figure.add_scatter(
            x=found.predicted[chosen],
            y=values[chosen],
            mode="markers",
            name=f"{distance:g} apart",
            marker={"size": 5, "opacity": 0.7, "color": COLORS[number % len(COLORS)]},
        )
    ends = [float(found.predicted.min()), float(found.predicted.max())]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"dash": "dot", "color": "gray"})
    return figure.update_layout(
        title="Measured on predicted", xaxis_title="edge (predicted effect)", yaxis_title="measured effect"
    )


def _verdicts(found: Measurement) -> go.Figure:
    again = found.replication
    assert again is not None
    kinds = sorted(set(found.kind.tolist()))
    figure = go.Figure()
    for number, verdict in enumerate(VERDICTS):
        shares = [
            np.mean([v == verdict for v, k in zip(again.verdict, found.kind, strict=True) if k == kind])
            for kind in kinds
        ]
        figure.add_bar(x=kinds, y=shares, name=verdict, marker_color=COLORS[(2, 5, 3)[number]])
    return figure.update_layout(
        title=f"On {again.prompts} other prompts", barmode="stack", yaxis_title="share of edges", yaxis_range=[0, 1]
    )


def _node_table(pruned: PrunedGraph, words: Words) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    nodes = sorted(pruned.nodes(), key=lambda node: -node.influence)
    nothing: tuple[Pairs, Pairs] = ([], [])
    return ("node", "influence", "layer", "position", "value", "raises", "lowers"), [
        (
            node.name, f"{node.influence:.4f}", node.layer, node.position, f"{node.value:.4g}",
            *(" ".join(repr(token) for token, _ in its) for its in words.get(node.number, nothing)),
        )
        for node in nodes
    ]  # fmt: skip


def _edge_table(
    pruned: PrunedGraph, measurement: Measurement | None
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    name = pruned.graph.node
    if measurement is None:
        return ("source", "target", "edge"), [(str(name(s)), str(name(t)), f"{w:.4g}") for s, t, w in pruned.links]
    columns: list[str] = [
        "source",
        "target",
        "edge",
        "all paths",
        *(mode.replace("_", " ") for mode in measurement.effects),
    ]
    again, above = measurement.replication, measurement.above_null
    columns += [] if above is None else ["above the null"]
    columns += [] if again is None else ["mean, other prompts", "± standard error", "active in", "verdict"]
    rows = []
    for i, (s, t) in enumerate(zip(measurement.source.tolist(), measurement.target.tolist(), strict=True)):
        row: list[object] = [
            str(name(s)),
            str(name(t)),
            f"{measurement.predicted[i]:.4g}",
            f"{measurement.total[i]:.4g}",
        ]
        row += [f"{values[i]:.4g}" for values in measurement.effects.values()]
        row += [] if above is None else ["yes" if above[i] else "no"]
        if again is not None:
            numbers = [
                "" if math.isnan(value) else f"{value:.4g}" for value in (again.mean[i], again.standard_error[i])
            ]
            row += [*numbers, f"{again.active[i]} of {again.prompts}", again.verdict[i]]
        rows.append(tuple(row))
    return tuple(columns), rows
