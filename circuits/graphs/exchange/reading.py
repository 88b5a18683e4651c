"""Graphs read from the JSON of Neuronpedia and circuit-tracer, of whatever tool."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from circuits.graphs.exchange.writing import EMBEDDING_TYPE, ERROR_TYPE, FEATURE, LOGIT, VIEW, unpaired
from circuits.graphs.graph import ERROR, LATENT, LINEAR_ERROR, TARGET, TOKEN, AttributionGraph
from circuits.graphs.linear.sources import Columns
from interp.files.outside import read_json, reading, typed

_TYPES = {FEATURE: LATENT, ERROR_TYPE: ERROR, EMBEDDING_TYPE: TOKEN, LOGIT: TARGET}


def read_neuronpedia(path: str | Path) -> AttributionGraph:
    """A graph from such a file, of whatever tool: nodes, edges, weights, and the view in ``about``.

    What a file does not hold is not there: pre-activations, biases, what was pruned. Influence is that of the edges in
    the file; the file's own stands in ``about["influence"]``, by node.

    Raises:
        ValueError: it is damaged, or no such graph.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import read_neuronpedia, write_neuronpedia
        >>> pruned = graph.prune(nodes=0.5)
        >>> again = read_neuronpedia(write_neuronpedia(pruned, "graph.json", slug="once"))
        >>> len(again) == len(pruned), again.labels == graph.labels
        (True, True)
    """
    found = read_json(Path(path), "is no attribution graph")
    with reading(path, "is no attribution graph"):
        return _from_file(found)


def _from_file(found: Mapping[str, Any]) -> AttributionGraph:
    metadata, view = found["metadata"], VIEW | found["qParams"]
    tokens = typed(metadata["prompt_tokens"], tuple[str, ...], "prompt_tokens")
    nodes = [_checked(node, len(tokens)) for node in found["nodes"]]
    order = sorted(range(len(nodes)), key=lambda i: nodes[i].order)
    nodes = [nodes[i] for i in order]
    numbers = {node.id: i for i, node in enumerate(nodes)}
    if len(numbers) < len(nodes):
        raise ValueError("two of its nodes have the same node_id")
    rows, columns, weights = [], [], []
    for link in found["links"]:
        for end in ("source", "target"):
            if link[end] not in numbers:
                raise ValueError(f"a link has the {end} {link[end]!r}, which is no node")
        rows.append(numbers[link["target"]])
        columns.append(numbers[link["source"]])
        weights.append(typed(link["weight"], float, "weight"))
    adjacency = sparse.csr_array((np.array(weights, dtype=np.float64), (rows, columns)), shape=(len(nodes),) * 2)
    layers = [node.layer for node in nodes if node.kind in (LATENT, ERROR, LINEAR_ERROR)]
    targets = [node for node in nodes if node.kind == TARGET]
    if not targets:
        raise ValueError("none of its nodes is a logit")
    unknown = np.full(len(nodes), np.nan)
    settings = metadata.get("generation_settings") or {}
    n_layers = settings.get("n_layers", max([*(node.layer - 1 for node in targets), *(layer + 1 for layer in layers)]))
    ids = {node.position: node.index for node in nodes if node.kind == TOKEN}
    graph = AttributionGraph(
        model=typed(metadata["scan"], str, "scan"),
        prompt=typed(metadata["prompt"], str, "prompt"),
        tokens=tuple(ids.get(position, -1) for position in range(len(tokens))),
        labels=tokens,
        n_layers=typed(n_layers, int, "n_layers"),
        nodes=Columns(
            kind=np.array([node.kind for node in nodes], np.int8),
            layer=np.array([n_layers if node.kind == TARGET else node.layer for node in nodes], np.int16),
            position=np.array([node.position for node in nodes], np.int32),
            index=np.array([node.index for node in nodes], np.int64),
            value=np.array([node.activation for node in nodes], np.float32),
        ),
        target_names=tuple(node.name for node in targets),
        adjacency=adjacency,
        weights=np.array([node.weight for node in nodes]),
        pre_activation=unknown,
        bias=unknown,
        left_out=unknown,
        unselected=unknown,
        n_active=typed(settings.get("n_active", sum(node.kind == LATENT for node in nodes)), int, "n_active"),
        left_out_positions=typed(settings.get("left_out_positions", []), tuple[int, ...], "left_out_positions"),
        cost={},
        about={
            "transcoders": list(typed(metadata.get("transcoder_list", []), tuple[str, ...], "transcoder_list")),
            "max_nodes": settings.get("max_feature_nodes"),
            "slug": typed(metadata["slug"], str, "slug"),
            "view": view,
            "labels": {i: node.label for i, node in enumerate(nodes) if node.label},
            "influence": [node.influence for node in nodes],
        },
    )
    _ = graph.influence  # which refuses a circle
    return graph


_KIND_ORDER = {LATENT: 0, ERROR: 1, LINEAR_ERROR: 2, TOKEN: 3, TARGET: 4}


@dataclass(frozen=True, kw_only=True)
class _Read:
    id: str
    kind: int
    layer: int
    position: int
    index: int
    label: str
    name: str
    influence: float | None
    activation: float
    weight: float
    first: bool

    @property
    def order(self) -> tuple[int, ...]:
        return (
            _KIND_ORDER[self.kind],
            self.layer,
            self.position if self.kind != TARGET else not self.first,
            self.index,
        )


def _checked(node: Mapping[str, Any], length: int) -> _Read:
    identity = typed(node["node_id"], str, "node_id")
    said = typed(node["feature_type"], str, "feature_type")
    if said not in _TYPES:
        raise ValueError(f"node {identity} is a {said!r}; a graph of latents has {', '.join(_TYPES)}")
    kind = LINEAR_ERROR if node.get("part") == "linear" else _TYPES[said]
    position = typed(node["ctx_idx"], int, "ctx_idx")
    if not 0 <= position < length:
        raise ValueError(f"node {identity} is at position {position} of a prompt of {length} tokens")
    layer = -1 if kind == TOKEN else int(node["layer"])
    if not -1 <= layer < 2**15:
        raise ValueError(f"node {identity} is of layer {layer}")
    numbered = {
        name: None if node.get(name) is None else typed(node[name], float, name) for name in ("influence", "activation")
    }
    label = typed(node["clerp"], str, "clerp")
    shown = re.fullmatch(r'Output "(.*)" \(p=[\d.]+\)', label, re.DOTALL)
    return _Read(
        id=identity,
        kind=kind,
        layer=layer,
        position=position,
        index=_index(node, kind, identity),
        label="" if kind == TARGET and shown else label,
        name=typed(node.get("target", shown[1] if shown else label), str, "target"),
        influence=numbered["influence"],
        activation=float("nan") if numbered["activation"] is None else numbered["activation"],
        weight=typed(node.get("token_prob", 0.0), float, "token_prob") if kind == TARGET else 0.0,
        first=bool(node.get("is_target_logit", False)),
    )


def _index(node: Mapping[str, Any], kind: int, identity: str) -> int:
    """Number of a latent, id of a token."""
    parts = identity.split("_")
    if kind in (ERROR, LINEAR_ERROR):
        return -1
    if kind == TOKEN:
        return int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else -1
    feature = typed(node["feature"], int, "feature")
    if kind == TARGET:
        return feature
    if feature < 0:
        raise ValueError(f"node {identity} is a latent of the number {feature}")
    layer, index = unpaired(feature)
    if str(layer) == str(node["layer"]):
        return index
    if len(parts) == 3 and parts[0] == str(node["layer"]) and parts[1].isdigit():
        return int(parts[1])
    return feature
