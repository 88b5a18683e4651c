"""What the explorer draws of an attribution graph, as plain data: tokens below, layers upwards, targets on top.

More is sent than is drawn at first, so that the sliders can let go: the browser prunes as
:func:`circuits.graphs.influence.pruned` does, from the share of influence that the nodes ``before`` each hold, and from
all edges between the nodes sent.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from circuits.graphs.exchange.writing import node_id
from circuits.graphs.graph import ERROR, LATENT, LINEAR_ERROR, TARGET, TOKEN, AttributionGraph, PrunedGraph
from circuits.graphs.influence import normalised
from circuits.graphs.measured.measurement import Measurement

MOST_NODES, MOST_LINKS, LOOSEST = 500, 40_000, 0.95
"""What is sent at most beyond the pruned graph itself, and the share of influence that its nodes hold."""
_KINDS = {TOKEN: "token", ERROR: "error", LINEAR_ERROR: "linear-error", LATENT: "latent", TARGET: "target"}
_LONGEST = 22


def held_before(influence: np.ndarray) -> np.ndarray:
    """``[node]``: the share of all influence in nodes of more influence: the fewest nodes that hold a share are those
    with less than it before them."""
    order = np.argsort(-influence, kind="stable")
    ranked = influence[order]
    total = ranked.sum()
    held = np.concatenate([[0.0], ranked.cumsum()[:-1] / total if total else np.ones(len(ranked) - 1)])
    first_of_equals = np.searchsorted(-ranked, -ranked, side="left")
    found = np.empty_like(held)
    found[order] = held[first_of_equals]
    return found


def sent_nodes(pruned: PrunedGraph, wanted: Collection[int] = ()) -> np.ndarray:
    """Numbers of the nodes that the browser gets, the most influential first: those of the pruned graph, those that
    are ``wanted``, and as many others as make a graph that is still fluid."""
    graph = pruned.graph
    sent = graph.mask(TOKEN, TARGET)
    sent[pruned.kept] = True
    sent[list(wanted)] = True
    least = sent.copy()
    order = np.argsort(-graph.influence, kind="stable")
    more = order[~sent[order] & (held_before(graph.influence)[order] < LOOSEST) & (graph.influence[order] > 0)]
    sent[more[: max(0, MOST_NODES - int(sent.sum()))]] = True
    if between(graph, sent).nnz > MOST_LINKS:
        sent = least
    return order[sent[order]]


def between(graph: AttributionGraph, sent: np.ndarray) -> sparse.csr_array:
    """The edges between the nodes of a mask."""
    mask = sparse.diags_array(sent.astype(graph.adjacency.dtype))
    found = sparse.csr_array(mask @ graph.adjacency @ mask)
    found.eliminate_zeros()
    return found


def drawn(
    pruned: PrunedGraph, numbers: np.ndarray, *, measurement: Measurement | None, labels: Mapping[int, str]
) -> tuple[dict[str, Any], float]:
    """The graph for the browser, and the largest share of influence for which all nodes are there."""
    graph = pruned.graph
    before = held_before(graph.influence)
    sent = np.zeros(len(graph), dtype=bool)
    sent[numbers] = True
    links, left_out = _links(graph, sent, numbers, measurement)
    notes = (
        []
        if not left_out
        else [f"Of {left_out + len(links):,} edges between these nodes the strongest {len(links):,}."]
    )
    missing = before[~sent & (graph.influence > 0)]
    shares = float(min(1.0, missing.min())) if len(missing) else 1.0
    if len(missing):
        notes.append(f"{len(missing):,} more nodes hold the last {1 - shares:.1%} of influence, and are not here.")
    sizes, inputs = _sizes(graph), abs(graph.adjacency).sum(1)
    nodes = [
        _node(graph, number, before[number], sizes[number], labels.get(number, ""))
        | {"inputs": float(f"{inputs[number]:.9g}")}
        for number in numbers.tolist()
    ]
    rows = ["tokens", *(f"layer {layer}" for layer in range(graph.n_layers)), "output"]
    return {
        "rows": rows,
        "columns": list(graph.labels),
        "by_position": True,
        "dots": True,
        "note": " ".join(notes),
        "nodes": nodes,
        "links": links,
    }, shares


def _node(graph: AttributionGraph, number: int, before: float, size: float, label: str) -> dict[str, Any]:
    node, weight = graph.node(number), float(graph.weights[number])
    kind = int(graph.nodes.kind[number])
    target = kind == TARGET
    facts = []
    if kind == LATENT and not math.isnan(node.value):
        facts.append(f"activation {node.value:.4g}")
    if target:
        facts.append(f"weight {weight:.4g}")
        if not math.isnan(node.value):
            facts.append(f"value {node.value:.4g}")
    if kind in (ERROR, LINEAR_ERROR) and not math.isnan(node.value):
        facts.append(f"norm {node.value:.4g}")
    if not target:
        facts.append(f"influence {node.influence:.4g}")
    if kind == LATENT:
        short = f"{node.layer}/{node.index}"
    elif target:
        name = graph.target_names[number - (len(graph) - len(graph.target_names))]
        shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        short = f"{shown.replace(chr(10), '⏎')} {weight:.2g}"
    else:
        short = f"{_KINDS[kind].replace('-', ' ')} @{node.position}"
    return {
        "id": node_id(graph, number),
        "kind": _KINDS[kind],
        "row": graph.n_layers + 1 if target else node.layer + 1,
        "column": None if target else node.position,
        "position": node.position,
        "label": short,
        "name": node.name,
        "text": label,
        "facts": facts,
        "score": weight if target else node.influence,
        "size": round(size, 4),
        "before": float(before),
        "weight": weight,
    }


def _sizes(graph: AttributionGraph) -> np.ndarray:
    """From 0 to 1: activations beside the largest, norms of errors beside the largest."""
    value = np.nan_to_num(np.abs(graph.nodes.value.astype(float)), nan=0.0)
    found = np.full(len(graph), 0.3)
    for mask in (graph.mask(LATENT), graph.mask(ERROR, LINEAR_ERROR)):
        if mask.any() and (most := value[mask].max()) > 0:
            found[mask] = value[mask] / most
    return found


def _links(
    graph: AttributionGraph, sent: np.ndarray, numbers: np.ndarray, measurement: Measurement | None
) -> tuple[list[list[Any]], int]:
    """``[source, target, weight]`` by the nodes' places in ``numbers``, of measured ones whether they hold and what was
    found; and how many are left out."""
    edges = between(graph, sent)
    shares = normalised(edges).tocoo()
    weights = np.asarray(edges[shares.coords[0], shares.coords[1]]).reshape(-1)
    rank = shares.data * (graph.influence + graph.weights)[shares.coords[0]]
    order = np.argsort(-rank, kind="stable")[:MOST_LINKS]
    place = np.zeros(len(graph), dtype=int)
    place[numbers] = np.arange(len(numbers))
    found = measured_edges(measurement)
    links: list[list[Any]] = []
    for i in order.tolist():
        target, source = int(shares.coords[0][i]), int(shares.coords[1][i])
        link: list[Any] = [int(place[source]), int(place[target]), float(f"{weights[i]:.9g}")]
        if (source, target) in found:
            holds, words = found[source, target]
            link += [int(holds), words]
        links.append(link)
    return links, len(rank) - len(links)


def measured_edges(measurement: Measurement | None) -> dict[tuple[int, int], tuple[bool, str]]:
    """By source and target whether an edge holds, and what was measured, in a few words."""
    if measurement is None:
        return {}
    keys = zip(measurement.source.tolist(), measurement.target.tolist(), strict=True)
    again = measurement.replication
    verdicts = [""] * len(measurement) if again is None else [f", {verdict}" for verdict in again.verdict]
    mode, values, holds = measurement.null_mode, measurement.in_null_mode.tolist(), measurement.holds.tolist()
    return {
        key: (held, f"{mode} {value:+.3g}{verdict}")
        for key, held, value, verdict in zip(keys, holds, values, verdicts, strict=True)
    }
