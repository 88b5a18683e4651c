"""Graphs as other tools have them: the JSON that Neuronpedia shows and circuit-tracer's page opens, both ways.

``metadata`` (slug, scan, prompt, prompt_tokens, transcoder_list, ..), ``qParams`` (pins and supernodes: the state of
the view), ``nodes`` (with cumulative influence from 0 to 1) and ``links``. circuit-tracer's own graphs are pickles,
which are never read.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits.graphs.graph import ERROR, LATENT, LINEAR_ERROR, TARGET, TOKEN, AttributionGraph, PrunedGraph
from circuits.graphs.measured.measurement import Measurement
from interp import __version__
from interp.files.writing import write_json

FEATURE, ERROR_TYPE, EMBEDDING_TYPE, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
"""Names of kinds of nodes in files; circuit-tracer calls latents of every transcoder by the first."""
VIEW = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}


@dataclass(frozen=True, kw_only=True)
class FileNode:
    """One node of a file."""

    id: str
    """The node's own id, ``layer_number_position``; links name their ends by it."""
    js_id: str
    """Its ``jsNodeId``, by which pages of other tools know it."""
    feature: int
    """A latent's :func:`pair_number`, a logit's token id, a token's position; -1 for errors."""
    layer: str
    """The layer as text: ``E`` for tokens, and for logits one more than the model has layers."""
    position: int
    """Position in the prompt, counted from 0."""
    kind: str
    """One of ``FEATURE``, ``ERROR_TYPE``, ``EMBEDDING_TYPE`` and ``LOGIT``."""
    label: str = ""
    """Text that is shown for the node."""
    influence: float | None = None
    """Cumulative influence, from 0 to 1; None for logits."""
    activation: float | None = None
    """Activation of a latent on the prompt; None for other nodes."""
    probability: float = 0.0
    """Weight of a target, for a logit its probability; 0 for other nodes."""
    is_target: bool = False
    """Whether it is the first of the targets."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the node, as JSON can hold them."""

    def to_json(self) -> dict[str, Any]:
        """As files have it."""
        return {
            "node_id": self.id,
            "feature": self.feature,
            "layer": self.layer,
            "ctx_idx": self.position,
            "feature_type": self.kind,
            "jsNodeId": self.js_id,
            "clerp": self.label,
            "influence": self.influence,
            "activation": self.activation,
            "token_prob": self.probability,
            "is_target_logit": self.is_target,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
        } | dict(self.more)


def file_of(
    *,
    slug: str,
    scan: str,
    prompt: str,
    tokens: Sequence[str],
    nodes: Sequence[FileNode],
    links: Sequence[Mapping[str, Any]],
    view: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """A whole file, of any graph.

    Raises:
        ValueError: two nodes of one id, or a link to none.
    """
    ids = [node.id for node in nodes]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two nodes have the id {next(i for i in ids if ids.count(i) > 1)!r}")
    if lost := [link for link in links if {link["source"], link["target"]} - set(ids)]:
        raise ValueError(f"the link from {lost[0]['source']} to {lost[0]['target']} has an end that is no node")
    about = {"name": "deepfield", "version": __version__}
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "prompt": prompt,
            "prompt_tokens": list(tokens),
            "transcoder_list": [],
            "schema_version": 1,
            "info": {"generator": about, "create_time_ms": int(time.time() * 1000)},
        }
        | metadata,
        "qParams": VIEW | dict(view or {}),
        "nodes": [node.to_json() for node in nodes],
        "links": [dict(link) for link in links],
    }


def to_neuronpedia(
    pruned: PrunedGraph,
    *,
    slug: str,
    scan: str | None = None,
    labels: Mapping[int, str] | None = None,
    view: Mapping[str, Any] | None = None,
    feature_details: Mapping[str, str] | None = None,
    measurement: Measurement | None = None,
) -> dict[str, Any]:
    """A pruned graph as a file.

    Args:
        pruned: The graph.
        slug: Its name in addresses.
        scan: The model's id there; by default the model's name.
        labels: By node a text of what it stands for.
        view: What an explorer has as its ``view_state``: ``pinnedIds``, ``supernodes`` (lists of a name and node ids),
            ``clickedId``, ``linkType``, ``sg_pos``; the rest of it is left out.
        feature_details: ``feature_json_base_url`` or ``neuronpedia_source_set``: where examples of latents are.
        measurement: What was measured of its edges; every link then has ``measured``.

    Raises:
        ValueError: labels or a view of nodes that are not there.
    """
    graph, labels = pruned.graph, dict(labels or {})
    ids = {int(number): node_id(graph, int(number)) for number in pruned.kept}
    if strange := [number for number in labels if number not in ids]:
        raise ValueError(f"labels names node {strange[0]}, which the pruned graph does not hold")
    view = VIEW | {name: value for name, value in (view or {}).items() if name in VIEW}
    if view["clickedId"] not in ids.values():
        view["clickedId"] = ""
    named = [*view["pinnedIds"], *(i for group in view["supernodes"] for i in group[1:])]
    if strange_ids := [i for i in named if i not in ids.values()]:
        raise ValueError(f"the view names {strange_ids[0]!r}, which is no node of the pruned graph")
    measured = {} if measurement is None else _measured(measurement)
    links = [
        {"source": ids[s], "target": ids[t], "weight": weight} | measured.get((s, t), {})
        for s, t, weight in pruned.links
    ]
    node_share, edge_share = pruned.settings["nodes"], pruned.settings["edges"]
    more: dict[str, Any] = {} if feature_details is None else {"feature_details": dict(feature_details)}
    return file_of(
        slug=slug,
        scan=scan or graph.model,
        prompt=graph.prompt,
        tokens=graph.labels,
        nodes=[_node(graph, number, ids[number], labels.get(number)) for number in ids],
        links=links,
        view=view,
        transcoder_list=list(graph.about.get("transcoders", ())),
        node_threshold=node_share,
        generation_settings={"max_feature_nodes": graph.about.get("max_nodes"), "n_active": graph.n_active}
        | {"left_out_positions": list(graph.left_out_positions), "n_layers": graph.n_layers},
        pruning_settings={"node_threshold": node_share, "edge_threshold": edge_share},
        **more,
    )


def write_neuronpedia(pruned: PrunedGraph, path: str | Path, **about: Any) -> Path:
    """:func:`to_neuronpedia` in a file.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import write_neuronpedia
        >>> write_neuronpedia(graph.prune(nodes=0.5), "graph.json", slug="once").name
        'graph.json'
    """
    write_json(Path(path), to_neuronpedia(pruned, **about))
    return Path(path)


def pair_number(layer: int, index: int) -> int:
    """One number for a layer and a latent (Cantor's pairing): what a file calls ``feature``."""
    return (layer + index) * (layer + index + 1) // 2 + index


def unpaired(number: int) -> tuple[int, int]:
    """The layer and the latent of such a number."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def node_id(graph: AttributionGraph, number: int) -> str:
    """What files and explorers call a node: layer (``E`` for tokens), number and position."""
    n = graph.nodes
    kind, layer, position, index = n.kind[number], n.layer[number], n.position[number], n.index[number]
    if kind == TARGET:
        order = number - (len(graph) - len(graph.target_names))
        return f"{graph.n_layers + 1}_{index if index >= 0 else f't{order}'}_{position}"
    if kind == TOKEN:
        return f"E_{index}_{position}"
    return f"{layer}_{index if kind == LATENT else -1 if kind == ERROR else -2}_{position}"


def _node(graph: AttributionGraph, number: int, identity: str, label: str | None) -> FileNode:
    n = graph.nodes
    kind, layer, position, index = (int(each[number]) for each in (n.kind, n.layer, n.position, n.index))
    stored = graph.about.get("influence")
    influence = float(graph.cumulative_influence[number]) if stored is None else stored[number]
    if kind == TARGET:
        order = number - (len(graph) - len(graph.target_names))
        share, name = float(graph.weights[number]), graph.target_names[order]
        return FileNode(
            id=identity,
            js_id=f"L_{index if index >= 0 else f't{order}'}-{position}",
            feature=index,
            layer=str(graph.n_layers + 1),
            position=position,
            kind=LOGIT,
            label=f'Output "{name}" (p={share:.3f})' if label is None else label,
            probability=share,
            is_target=order == 0,
            more={} if index >= 0 else {"target": name},
        )
    if kind == TOKEN:
        return FileNode(
            id=identity, js_id=f"E_{index}-{position}", feature=position, layer="E", position=position,
            kind=EMBEDDING_TYPE, label=label or "", influence=influence,
        )  # fmt: skip
    if kind == LATENT:
        return FileNode(
            id=identity, js_id=f"{layer}_{index}-0", feature=pair_number(layer, index), layer=str(layer),
            position=position, kind=FEATURE, label=label or "", influence=influence,
            activation=float(n.value[number]),
        )  # fmt: skip
    return FileNode(
        id=identity, js_id=identity, feature=-1, layer=str(layer), position=position, kind=ERROR_TYPE,
        label=label or ("linear part of the error" if kind == LINEAR_ERROR else ""), influence=influence,
        more={"part": "linear"} if kind == LINEAR_ERROR else {},
    )  # fmt: skip


def _measured(found: Measurement) -> dict[tuple[int, int], dict[str, Any]]:
    edges = found.to_json()["edges"]
    keys = zip(found.source.tolist(), found.target.tolist(), strict=True)
    holds = found.holds.tolist()
    return {
        key: {
            "measured": {name: value for name, value in edge.items() if name not in ("source", "target")}
            | {"holds": its}
        }
        for key, edge, its in zip(keys, edges, holds, strict=True)
    }
