"""Circuits for other programs: GraphML, DOT, and the graph JSON of circuit-tracer and Neuronpedia."""

from pathlib import Path
from typing import Any

import networkx

from circuits.circuit import EMBED, LOGITS, Circuit, layer_of
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


def to_neuronpedia(circuit: Circuit, *, slug: str, model: str, prompt: str, tokens: list[str]) -> dict[str, Any]:
    """The graph JSON that circuit-tracer writes and Neuronpedia shows: ``metadata``, ``qParams``, ``nodes``, ``links``.

    Its nodes are features at positions; ours are heads and MLPs at all of them, so all stand at the last token, and
    their ``feature_type`` says what they are.
    """
    last = max(0, len(tokens) - 1)
    top = max((layer_of(n) for n in circuit.nodes if n not in (EMBED, LOGITS)), default=-1) + 1

    def identity(node: str) -> str:
        layer = "E" if node == EMBED else str(top) if node == LOGITS else str(layer_of(node))
        return f"{layer}_{node}_{last}"

    nodes = [
        {
            "node_id": identity(node),
            "feature": index,
            "layer": identity(node).split("_")[0],
            "ctx_idx": last,
            "feature_type": "embedding" if node == EMBED else "logit" if node == LOGITS else
            "attention head" if node.startswith("a") else "mlp",
            "jsNodeId": identity(node),
            "clerp": node,
            "influence": float(score),
            "activation": None,
            "token_prob": 0.0,
            "is_target_logit": node == LOGITS,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
        }
        for index, (node, score) in enumerate(circuit.nodes.items())
    ]  # fmt: skip
    links = [
        {"source": identity(u), "target": identity(v), "weight": edge["score"]}
        for u, v, edge in circuit.to_networkx().edges(data=True)
    ]
    metadata = {
        "slug": slug,
        "scan": model,
        "prompt": prompt,
        "prompt_tokens": tokens,
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {"generator": {"name": "deepfield"}},
    }
    return {
        "metadata": metadata,
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": links,
    }


def write_neuronpedia(circuit: Circuit, path: str | Path, **about: Any) -> Path:
    """:func:`to_neuronpedia` in a file."""
    write_json(Path(path), to_neuronpedia(circuit, **about))
    return Path(path)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
