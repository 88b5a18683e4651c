"""Circuits in the JSON of the MIB benchmark's circuit track (``Graph.to_json`` of EAP-IG).

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"input": {"in_graph"}, "a0.h1": …, "m0": …, "logits": …},
     "edges": {"input->a0.h1<q>": {"score", "in_graph"}, …}}

``input`` is our ``embed``, and ``a0.h1<q>`` our ``a0.h1.q``. All edges are listed, with those of the circuit marked.
Scores there are positive for edges that work for the clean answer.
"""

import math
from pathlib import Path
from typing import Any

from circuits.anatomy.anatomy import anatomy_of
from circuits.anatomy.wiring import PARTS, Wiring, width_of
from circuits.circuit import EMBED, LOGITS, Circuit, Edge, layer_of
from interp.files.outside import parse_json, reading
from interp.files.writing import write_json
from interp.models.plain import plain_module

INPUT = "input"


def write_mib(circuit: Circuit, path: str | Path, *, model: Any, whole: Circuit | None = None) -> Path:
    """Write a circuit of ``model``.

    Args:
        whole: The circuit that it was pruned from, for the scores of the other edges; 0 without it.

    Raises:
        ValueError: heads share keys and values, which the format has for each (see
            :func:`circuits.mib.ungrouping.ungroup`); edges that the model does not have.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> whole = circuits.Circuit.from_edges(scores)
        >>> path = circuits.mib.write_mib(whole.prune(size=20), "circuit.json", model=model, whole=whole)
        >>> len(circuits.mib.read_mib(path).edges)
        20
    """
    wiring = Wiring(anatomy_of(plain_module(model, purpose="write a circuit")))
    anatomy = wiring.anatomy
    if anatomy.heads != anatomy.key_value_heads:
        raise ValueError(
            f"{anatomy.heads} heads of this model share {anatomy.key_value_heads} keys and values; MIB's files have"
            " them for each head: score circuits.mib.ungroup(model) and pass that"
        )
    for edge in circuit.edges:
        wiring.index(*edge)
    gains = circuit.gains() if whole is None else whole.gains() | circuit.gains()
    edges = [(wiring.writers[u].name, wiring.readers[v].name) for u, v in wiring.mask.nonzero().tolist()]
    names = [end.name for end in wiring.writers] + [LOGITS]
    write_json(
        Path(path),
        {
            "cfg": {
                "n_layers": len(anatomy.blocks),
                "n_heads": anatomy.heads,
                "parallel_attn_mlp": anatomy.family.parallel,
                "d_model": width_of(anatomy),
            },
            "nodes": {_their_node(name): {"in_graph": name in circuit.nodes} for name in names},
            "edges": {
                f"{_their_node(u)}->{_their_reader(v)}": {
                    "score": gains.get((u, v), 0.0),
                    "in_graph": (u, v) in circuit.edges,
                }
                for u, v in edges
            },
        },
    )
    return Path(path)


def read_mib(path: str | Path, *, whole: bool = False) -> Circuit:
    """Read the circuit of a file, or with ``whole`` all of its edges with their scores.

    Keys and values are those of single heads: a model in which heads share them is evaluated through
    :func:`circuits.mib.ungrouping.ungroup`.

    Raises:
        ValueError: a file that is not of this form, an edge that its ``cfg`` does not allow, a score that is no number,
            or a circuit of single neurons.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> whole = circuits.Circuit.from_edges(circuits.attribute_edges(model, task, method="eap"))
        >>> path = circuits.mib.write_mib(whole.prune(size=20), "circuit.json", model=model, whole=whole)
        >>> len(circuits.mib.read_mib(path, whole=True).edges) == len(whole.edges)
        True
    """
    with reading(path, "is not a circuit of the MIB benchmark"):
        graph = parse_json(Path(path).read_bytes(), path)
        cfg = {name: int(graph["cfg"][name]) for name in ("n_layers", "n_heads", "parallel_attn_mlp")}
        if any("neurons" in node for node in graph["nodes"].values()):
            raise ValueError("it is a circuit of single neurons, which edges between heads and MLPs cannot hold")
        scores: dict[Edge, float] = {}
        groups: dict[str, tuple[str, ...]] = {}
        for name, about in graph["edges"].items():
            edge, node = _edge(name, cfg)
            score = float(about["score"])
            if not math.isfinite(score):
                raise ValueError(f"the score of {name} is {score}")
            groups[edge[1]] = (node,)
            if type(about["in_graph"]) is not bool:
                raise ValueError(f"in_graph of {name} is {about['in_graph']!r}; it must be true or false")
            if whole or about["in_graph"]:
                scores[edge] = score
        names = {EMBED, LOGITS, *(u for u, _ in scores), *(groups[v][0] for _, v in scores)}
        nodes = dict.fromkeys(sorted(names, key=_order), 0.0)
        for (writer, _), score in scores.items():
            nodes[writer] += score
    # As measured by bringing the clean run back: positive scores are of edges that work for its answer.
    about = {"method": "read from MIB's JSON", "direction": "denoise", "rules": None}
    return Circuit(nodes=nodes, edges=scores, groups=groups, about=about)


def _their_node(name: str) -> str:
    return INPUT if name == EMBED else name


def _their_reader(name: str) -> str:
    node, dot, part = name.rpartition(".")
    return f"{node}<{part}>" if dot and part in PARTS else name


def _order(name: str) -> tuple[int, bool, int]:
    return layer_of(name), name.startswith("m"), int(name.rpartition(".h")[2]) if ".h" in name else 0


def _edge(name: str, cfg: dict[str, int]) -> tuple[Edge, str]:
    """Our edge of one of theirs, and the node that its reader belongs to."""
    writer, arrow, reader = name.partition("->")
    node, _, part = reader.removesuffix(">").partition("<")
    writer = EMBED if writer == INPUT else writer
    from_layer, to_layer = _layer(writer, cfg), _layer(node, cfg)
    is_head = node.startswith("a")
    same_layer = writer.startswith("a") and node.startswith("m") and not cfg["parallel_attn_mlp"]
    if (
        not arrow
        or reader != (f"{node}<{part}>" if is_head else node)
        or is_head != (part in PARTS)
        or writer == LOGITS
        or node == EMBED
        or not (from_layer < to_layer or (from_layer == to_layer and same_layer))
    ):
        raise ValueError(f"{name} is no edge of a model of {cfg['n_layers']} layers of {cfg['n_heads']} heads")
    return (writer, f"{node}.{part}" if is_head else node), node


def _layer(node: str, cfg: dict[str, int]) -> int:
    """-1 for the input, the number of layers for the logits; checked against the ``cfg``."""
    if node in (EMBED, LOGITS):
        return -1 if node == EMBED else cfg["n_layers"]
    layer, dot, head = node[1:].partition(".h")
    numbers = [layer] + [head] * bool(dot)
    limits = (cfg["n_layers"], cfg["n_heads"])
    if (
        node[:1] not in ("a", "m")
        or (node[0] == "a") != bool(dot)
        or not all(text.isdecimal() and text == str(int(text)) for text in numbers)
        or any(int(text) >= limit for text, limit in zip(numbers, limits, strict=False))
    ):
        raise ValueError(f"{node!r} is no part of a model of {limits[0]} layers of {limits[1]} heads")
    return int(layer)
