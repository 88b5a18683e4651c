"""A circuit: the nodes and edges that are said to do a task, with their scores; cut to size, saved, drawn, exported."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import networkx

from circuits.scores.edges import EdgeScores
from interp.files.outside import read_json, reading, typed
from interp.files.writing import write_json
from interp.terminal.short_repr import short_repr

FORMAT = "deepfield-circuit-1"
EMBED, LOGITS = "embed", "logits"
Edge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """Writers and readers (named as in ``circuits.anatomy.wiring``) and the edges between them.

    A reader such as ``a1.h2.q`` belongs to node ``a1.h2``; one that several heads share, to each of them.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> circuit = circuits.Circuit.from_edges(scores).prune(size=20)
        >>> len(circuit.edges)
        20
    """

    nodes: Mapping[str, float]
    """Score of each node, on the scale of the metric."""
    edges: Mapping[Edge, float]
    """Score of each edge, by (writer, reader)."""
    groups: Mapping[str, tuple[str, ...]]
    """The nodes that each reader belongs to."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Task, model, method, rules, direction, metric: what the scores are of."""

    __repr__ = short_repr

    @classmethod
    def from_edges(cls, scores: EdgeScores, **about: Any) -> "Circuit":
        """The whole model as a circuit, with the scores of all edges; ``prune`` makes it smaller."""
        nodes = scores.node_values() | {LOGITS: 0.0}
        origin = {
            name: getattr(scores, name) for name in ("method", "direction", "metric", "clean_metric", "corrupt_metric")
        }
        origin["rules"] = None if scores.rules is None else list(scores.rules)
        return cls(nodes=nodes, edges=scores.edges, groups=scores.groups, about=origin | about)

    def gains(self) -> dict[Edge, float]:
        """Scores with the sign that says what an edge does for the clean answer: positive for it, negative against it.

        In direction ``noise`` that is minus the score, by which the metric falls when the edge is patched; ``acdc``
        measures what a removal costs, in either direction.
        """
        falls = self.about.get("direction") == "noise" and self.about.get("method") != "acdc"
        return {edge: -score if falls else score for edge, score in self.edges.items()}

    def prune(
        self,
        *,
        size: int | None = None,
        threshold: float | None = None,
        dangling: bool = False,
        signed: bool = False,
    ) -> "Circuit":
        """The edges of largest absolute score: the ``size`` first, or those of at least ``threshold``. With ``signed``,
        those of largest gain (:meth:`gains`): edges that work against the clean answer come last.

        Edges that then lie on no path from the input to the logits do nothing, and go too unless ``dangling``; so there
        can be fewer than ``size``.

        Raises:
            ValueError: not exactly one of size and threshold, or one out of range.
        """
        if (size is None) == (threshold is None):
            raise ValueError("prune by size=… (number of edges) or by threshold=… (least absolute score), one of them")
        if size is not None and not 0 <= size <= len(self.edges):
            raise ValueError(f"size is {size}; this circuit has {len(self.edges)} edges")
        if threshold is not None and not signed and not threshold >= 0:
            raise ValueError(
                f"threshold is {threshold}; scores are compared by absolute value, so it must be 0 or more"
            )
        values = self.gains() if signed else {edge: abs(score) for edge, score in self.edges.items()}
        ranked = sorted(self.edges, key=lambda edge: -values[edge])
        kept = set(ranked[:size] if threshold is None else [edge for edge in ranked if values[edge] >= threshold])
        edges = {edge: score for edge, score in self.edges.items() if edge in kept}
        return self._with(edges if dangling else self._connected(edges))

    def without(self, edge: Edge) -> "Circuit":
        """The circuit with one edge less."""
        if edge not in self.edges:
            raise ValueError(f"{edge} is not an edge of this circuit of {len(self.edges)}")
        return self._with({other: score for other, score in self.edges.items() if other != edge})

    def without_nodes(self, names: Iterable[str]) -> "Circuit":
        """The circuit without the edges from some nodes, or into them and nobody else."""
        gone = set(names)
        return self._with(
            {(u, v): s for (u, v), s in self.edges.items() if u not in gone and set(self.groups[v]) - gone}
        )

    def _with(self, edges: Mapping[Edge, float]) -> "Circuit":
        ends = {EMBED, LOGITS, *(u for u, _ in edges), *(node for _, v in edges for node in self.groups[v])}
        return replace(self, nodes={n: s for n, s in self.nodes.items() if n in ends}, edges=edges)

    def _connected(self, edges: Mapping[Edge, float]) -> Mapping[Edge, float]:
        graph = networkx.DiGraph()
        graph.add_nodes_from((EMBED, LOGITS))
        graph.add_edges_from((u, node) for u, v in edges for node in self.groups[v])
        alive = (networkx.descendants(graph, EMBED) | {EMBED}) & (networkx.ancestors(graph, LOGITS) | {LOGITS})
        return {(u, v): s for (u, v), s in edges.items() if u in alive and alive.intersection(self.groups[v])}

    def to_networkx(self) -> networkx.MultiDiGraph:
        """A directed graph of nodes; every edge carries ``score`` and ``reader``."""
        graph = networkx.MultiDiGraph(**{k: v for k, v in self.about.items() if isinstance(v, str | int | float)})
        for node, score in self.nodes.items():
            graph.add_node(node, score=float(score), layer=layer_of(node))
        for (u, v), score in self.edges.items():
            for node in self.groups[v]:
                graph.add_edge(u, node, key=v, score=float(score), reader=v)
        return graph

    def save(self, path: str | Path) -> Path:
        """Write as JSON; :meth:`load` reads it back equal."""
        write_json(
            Path(path),
            {
                "format": FORMAT,
                "about": dict(self.about),
                "nodes": dict(self.nodes),
                "edges": [[u, v, score] for (u, v), score in self.edges.items()],
                "groups": {v: list(nodes) for v, nodes in self.groups.items()},
            },
        )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: another format, or a file that does not hold together.
        """
        written = read_json(Path(path), "is not a circuit")
        with reading(path, "is not a circuit"):
            if written["format"] != FORMAT:
                raise ValueError(f"its format is {written['format']!r}, this version reads {FORMAT!r}")
            circuit = cls(
                nodes=typed(written["nodes"], dict[str, float], "nodes"),
                edges={
                    typed([u, v], tuple[str, ...], "edge"): typed(score, float, f"edge {u} -> {v}")
                    for u, v, score in written["edges"]
                },
                groups=typed(written["groups"], dict[str, tuple[str, ...]], "groups"),
                about=dict(written["about"]),
            )
            for u, v in circuit.edges:
                if u not in circuit.nodes or not set(circuit.groups[v]) & set(circuit.nodes):
                    raise ValueError(f"edge {u} -> {v} has an end that is not among its nodes")
        return circuit


def layer_of(node: str) -> int:
    """-1 for the input, a large number for the logits, else the layer in the node's name."""
    if node in (EMBED, LOGITS):
        return -1 if node == EMBED else 10_000
    return int(node.split(".")[0][1:])
