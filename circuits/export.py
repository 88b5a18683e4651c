"""Circuits for other programs: GraphML, DOT, and the graph JSON of circuit-tracer and Neuronpedia."""

from pathlib import Path
from typing import Any

import networkx
import numpy as np
from scipy import sparse

from circuits.circuit import EMBED, LOGITS, Circuit
from circuits.explorer.graph import Graph, Part
from circuits.graphs.exchange.writing import FileNode, file_of
from circuits.graphs.influence import cumulative, influence_of, normalised
from interp.files.writing import atomic_path, write_json


def write_graphml(circuit: Circuit, path: str | Path) -> Path:
    """GraphML, which Gephi, yEd, Cytoscape and networkx read."""
    with atomic_path(Path(path)) as partial:
        networkx.write_graphml(circuit.to_networkx(), partial)
    return Path(path)


def to_dot(circuit: Circuit) -> str:
    """Graphviz text: width by absolute score, blue for positive and red for negative."""
    most = max((abs(score) for score in circuit.edges.values()), default=0) or 1.0
    lines = ["digraph circuit {", "  rankdir=BT;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    lines += [f"  {_quoted(node)};" for node in circuit.nodes]
    for u, v, edge in circuit.to_networkx().edges(data=True):
        part = edge["reader"].rsplit(".", 1)[-1]
        label = f", label={_quoted(part)}" if part in ("q", "k", "v") else ""
        colour = "#2166ac" if edge["score"] >= 0 else "#b2182b"
        width = 0.5 + 4 * abs(edge["score"]) / most
        lines.append(f'  {_quoted(u)} -> {_quoted(v)} [penwidth={width:.2f}, color="{colour}"{label}];')
    return "\n".join([*lines, "}", ""])


def write_dot(circuit: Circuit, path: str | Path) -> Path:
    """:func:`to_dot` in a file."""
    with atomic_path(Path(path)) as partial:
        partial.write_text(to_dot(circuit), encoding="utf-8")
    return Path(path)


def to_neuronpedia(graph: Graph, *, slug: str, model: str, prompt: str, tokens: list[str]) -> dict[str, Any]:
    """A circuit unfolded by position (:func:`circuits.explorer.positions.unfold`) as the graph JSON that
    :mod:`circuits.graphs.exchange` writes of latents too.

    Every head, MLP and the input stand at the position where they act; ``feature_type`` says what they are.
    ``influence`` is cumulative, from 0 to 1, as there: that of nodes on the logits over all links.

    Args:
        graph: By position.
        slug: Its name in addresses.
        model: The model's id.
        prompt: Text of one of the task's prompts.
        tokens: Its tokens.

    Raises:
        ValueError: a graph whose parts have no positions, or other positions than ``tokens``.
    """
    if not graph.by_position or len(graph.columns) != len(tokens):
        raise ValueError(
            f"a file has nodes at its {len(tokens)} tokens, and this graph has {len(graph.columns)} columns"
            + ("" if graph.by_position else " that are no positions: unfold the circuit first")
        )
    parts = list(graph.parts.values())
    numbers = {part.id: i for i, part in enumerate(parts)}
    ends = ([numbers[link.target] for link in graph.links], [numbers[link.source] for link in graph.links])
    scores = np.array([link.score for link in graph.links])
    adjacency = sparse.csr_array((scores, ends), shape=(len(parts),) * 2)
    weights = np.array([float(part.kind == LOGITS) for part in parts])
    influence = cumulative(influence_of(normalised(adjacency), weights))
    top = max((part.layer for part in parts if part.kind not in (EMBED, LOGITS)), default=-1) + 2
    nodes = [_file_node(part, i, top, float(influence[i])) for i, part in enumerate(parts)]
    ids = [node.id for node in nodes]
    merged: dict[tuple[str, str], float] = {}
    for link in graph.links:  # a head reads in three ways, a file has one link between two nodes
        pair = ids[numbers[link.source]], ids[numbers[link.target]]
        merged[pair] = merged.get(pair, 0.0) + link.score
    links = [{"source": u, "target": v, "weight": score} for (u, v), score in merged.items()]
    return file_of(slug=slug, scan=model, prompt=prompt, tokens=tokens, nodes=nodes, links=links, node_threshold=1.0)


def _file_node(part: Part, number: int, top: int, influence: float) -> FileNode:
    layer = "E" if part.kind == EMBED else str(top) if part.kind == LOGITS else str(part.layer)
    assert part.position is not None
    return FileNode(
        id=f"{layer}_{part.label}_{part.position}",
        js_id=f"{layer}_{part.label}-{part.position}",
        feature=number,
        layer=layer,
        position=part.position,
        kind=_TYPES.get(part.kind, part.kind),
        label=part.label,
        influence=None if part.kind == LOGITS else influence,
        probability=float(part.kind == LOGITS),
        is_target=part.kind == LOGITS,
    )


_TYPES = {EMBED: "embedding", LOGITS: "logit", "head": "attention head"}


def write_neuronpedia(graph: Graph, path: str | Path, **about: Any) -> Path:
    """:func:`to_neuronpedia` in a file."""
    write_json(Path(path), to_neuronpedia(graph, **about))
    return Path(path)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
