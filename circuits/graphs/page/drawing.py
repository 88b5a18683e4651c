"""Where nodes and edges are drawn: tokens along the bottom, layers upwards, targets on top.

A column is as wide as its fullest cell, and a token without nodes as narrow as its label, so that no labels lie on each
other and nothing is drawn on empty ground. Nodes are dots without labels, in rows within their cell.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.graphs.graph import ERROR, LATENT, LINEAR_ERROR, TARGET, TOKEN, PrunedGraph
from circuits.graphs.measured.measurement import Measurement

STEP, MARGIN, NARROW, IN_A_ROW = 15.0, 12.0, 26.0, 6
_ROW_GAP, _LABELS, _LONGEST_LABEL = 46.0, 92.0, 14
MOST_DRAWN = 400
"""Edges drawn at first; all are there, and those of a chosen node are always drawn."""
_SHAPES = {LATENT: "latent", ERROR: "error", LINEAR_ERROR: "error linear", TOKEN: "token", TARGET: "target"}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Plain data for the template; sizes are pixels."""

    width: float
    """Width of the whole drawing, in pixels."""
    height: float
    """Height of the whole drawing, in pixels."""
    nodes: Sequence[dict[str, Any]]
    """Of every node its number, place, radius, shape and name."""
    edges: Sequence[dict[str, Any]]
    """The strongest shares of their targets' inputs first."""
    columns: Sequence[dict[str, Any]]
    """Of every token where its column is, its label and its position."""
    rows: Sequence[dict[str, Any]]
    """Of every layer its height in the drawing and its name, from the bottom up."""


def draw(pruned: PrunedGraph, measurement: Measurement | None = None) -> Drawing:
    """Lay out a pruned graph; edges that do not hold (see ``Measurement.holds``) are marked."""
    graph, n = pruned.graph, pruned.graph.nodes
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    top = graph.n_layers
    for number in pruned.kept[np.argsort(-graph.influence[pruned.kept], kind="stable")].tolist():
        level = top if n.kind[number] == TARGET else int(n.layer[number])
        cells[level, int(n.position[number])].append(number)
    columns, edge_of = _columns(graph.labels, cells)
    rows, line_of = _rows(graph.n_layers, cells)
    where: dict[int, tuple[float, float]] = {}
    for (level, position), members in cells.items():
        for order, number in enumerate(members):
            x = edge_of[position] + STEP * (order % IN_A_ROW + 0.5)
            where[number] = (x, line_of[level] - STEP * (order // IN_A_ROW))
    return Drawing(
        width=columns[-1]["end"] + 60,
        height=rows[0]["y"] + _LABELS,
        nodes=[_node(pruned, number, where[number]) for number in pruned.kept.tolist()],
        edges=_edges(pruned, measurement, where),
        columns=columns,
        rows=rows,
    )


def _columns(
    labels: Sequence[str], cells: dict[tuple[int, int], list[int]]
) -> tuple[list[dict[str, Any]], list[float]]:
    found, edges, x = [], [], MARGIN
    for position, label in enumerate(labels):
        most = max((len(members) for (_, p), members in cells.items() if p == position), default=0)
        width = max(NARROW, STEP * min(most, IN_A_ROW) + 6)
        shown = label.replace("\n", "\u23ce")
        shown = shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "\u2026"
        edges.append(x + 3)
        found.append({"x": x + 3 + STEP / 2, "end": x + width, "label": shown, "position": position})
        x += width
    return found, edges


def _rows(n_layers: int, cells: dict[tuple[int, int], list[int]]) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """From the bottom up; ``y`` is where the lowest nodes of a row are."""
    depth = {
        level: max((-(-len(members) // IN_A_ROW) for (at, _), members in cells.items() if at == level), default=1)
        for level in range(-1, n_layers + 1)
    }
    heights = [STEP * depth[level] + _ROW_GAP for level in range(-1, n_layers + 1)]
    y, rows, lines = sum(heights) - 8, [], {}
    for level, height in zip(range(-1, n_layers + 1), heights, strict=True):
        lines[level] = y
        name = "tokens" if level < 0 else "output" if level == n_layers else f"layer {level}"
        rows.append({"y": y, "name": name})
        y -= height
    return rows, lines


def _node(pruned: PrunedGraph, number: int, at: tuple[float, float]) -> dict[str, Any]:
    node, graph = pruned.graph.node(number), pruned.graph
    most = graph.influence.max() or 1.0
    radius = 3.2 + 2.8 * float(np.sqrt(node.influence / most)) if node.kind != "target" else 5.5
    return {
        "id": number,
        "x": round(at[0], 1),
        "y": round(at[1], 1),
        "r": round(radius, 2),
        "shape": _SHAPES[int(graph.nodes.kind[number])],
        "name": node.name,
    }


def _edges(
    pruned: PrunedGraph, measurement: Measurement | None, where: dict[int, tuple[float, float]]
) -> list[dict[str, Any]]:
    sums = np.maximum(abs(pruned.edges).sum(1), 1e-30)
    held = {}
    if measurement is not None:
        keys = zip(measurement.source.tolist(), measurement.target.tolist(), strict=True)
        held = dict(zip(keys, measurement.holds.tolist(), strict=True))
    score = pruned.graph.influence + pruned.graph.weights
    found = []
    for source, target, weight in pruned.links:
        (x1, y1), (x2, y2) = where[source], where[target]
        bend = max(18.0, 0.45 * (y1 - y2))
        share = abs(weight) / float(sums[target])
        found.append(
            {
                "source": source,
                "target": target,
                "path": f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 - bend:.1f} {x2:.1f} {y2 + bend:.1f} {x2:.1f} {y2:.1f}",
                "width": round(0.5 + 3.5 * share, 2),
                "sign": "more" if weight >= 0 else "less",
                "loose": not held.get((source, target), True),
                "score": share * float(score[target]),
            }
        )
    return sorted(found, key=lambda edge: -edge["score"])
