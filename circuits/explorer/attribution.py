"""Explore an attribution graph in a notebook, or in one HTML file that works offline, drawn as circuits are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from circuits.explorer.attribution_data import drawn, sent_nodes
from circuits.explorer.latent_details import LatentDetails
from circuits.explorer.shared import GraphView
from circuits.explorer.traits import validate
from circuits.graphs.exchange.writing import node_id, write_neuronpedia
from circuits.graphs.graph import TARGET, AttributionGraph, PrunedGraph
from circuits.graphs.interventions.changes import MODES, Intervened, LatentChange
from circuits.graphs.measured.measurement import Measurement
from saes.features.examples import Text

_HOWS = {"set": "set to", "scale": "scaled by", "add": "raised by"}
_HELD = {
    "direct": "direct: all but the edges held",
    "frozen_attention": "frozen attention: patterns held",
    "live": "live: nothing held",
}
_LISTED = 6


class GraphExplorer(GraphView):
    """An attribution graph: tokens along the bottom, layers upwards, targets on top. Latents are dots by activation,
    errors diamonds.

    Args:
        shown: A graph, or a pruned one, whose shares the sliders begin with. A graph of a file begins with its pins and
            supernodes.
        measurement: What was measured of its edges: those that do not hold are grey.
        labels: By node number what it stands for.
        text: Where top examples of latents are looked up, as for :func:`saes.features.top_examples`, its site aside.

    Attributes:
        selection: Ids of the selected nodes, such as ``2_875_5`` (layer, latent, position), as graph files have them.
        pinned: Ids of nodes that stay in sight whatever the shares.
        groups: Supernodes: ids of members by name.
        node_threshold: Share of all influence that the nodes drawn hold, at most the share of those that were sent to
            the browser (``about["shares"]``).
        threshold: Share of influence between them that the edges drawn hold.
        measured: What the last intervention from the browser found, as plain data.

    Raises:
        ValueError: what is no attribution graph; a measurement of another graph; labels of nodes that are not there.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> graph = circuits.attribution_graph(model, "Once upon a time", saes.embedded_transcoders(), max_nodes=32)
        >>> explorer = circuits.GraphExplorer(graph.prune(nodes=0.5))
        >>> explorer.node_threshold, len(explorer.shown()) == len(graph.prune(nodes=0.5))
        (0.5, True)
    """

    def __init__(
        self,
        shown: Any,
        *,
        measurement: Measurement | None = None,
        labels: Mapping[int, str] | None = None,
        text: Text | None = None,
    ) -> None:
        if not isinstance(shown, AttributionGraph | PrunedGraph):
            raise ValueError(
                f"shown is a {type(shown).__name__}; it is an attribution graph, pruned or not"
                " (circuits.attribution_graph); circuits.Explorer shows circuits of heads and MLPs"
            )
        pruned = shown if isinstance(shown, PrunedGraph) else _opened(shown)
        graph = pruned.graph
        if measurement is not None and measurement.pruned.graph is not graph:
            raise ValueError("the measurement is of another graph: pass one of measure(graph.prune(…))")
        if strange := [number for number in labels or {} if not 0 <= number < len(graph)]:
            raise ValueError(f"labels names node {strange[0]}; the graph has nodes 0 to {len(graph) - 1}")
        self.graph, self._measurement = graph, measurement
        self._numbers = {node_id(graph, number): number for number in range(len(graph))}
        view = _fitting(graph.about.get("view", {}), self._numbers)
        named = [*view["pinnedIds"], *view["selected"], *(i for _, *members in view["supernodes"] for i in members)]
        numbers = sent_nodes(pruned, [self._numbers[name] for name in named])
        self._sent = {node_id(graph, number): number for number in numbers.tolist()}
        self._details = LatentDetails(graph, numbers, text)
        self._labels = {**graph.about.get("labels", {}), **(labels or {})}
        data, self._shares = drawn(pruned, numbers, measurement=measurement, labels=self._labels)
        runs = graph.source is not None
        super().__init__(
            graphs={"position": data},
            view="position",
            node_threshold=float(pruned.settings["nodes"]),
            threshold=float(pruned.settings["edges"]),
            experiment={"how": "set", "value": 0.0, "mode": "live"},
            about={
                "title": f"Attribution graph: {_brief(graph.prompt)}",
                "subtitle": f"{graph.model} · {len(graph.tokens)} tokens",
                "scores": "an edge is as wide as what it adds to its target, a node as large as its activation or norm",
                "views": [],
                "shares": self._shares,
                "intervenes": runs,
                "hows": list(_HOWS.items()),
                "modes": list(_HELD.items()),
                "measured_edges": measurement is not None,
                "details": True,
                "prompts": 0,
                "saved": "",
            },
        )
        self.restore(view)
        self.past = []
        self._quiet = False

    def shown(self) -> PrunedGraph:
        """What is drawn: the graph pruned by both shares, with pins, members of supernodes, and edges between pins."""
        graph = self.graph
        pruned = graph.prune(nodes=self.node_threshold, edges=self.threshold)
        pins = np.array([self._numbers[name] for name in self.pinned], dtype=int)
        grouped = [self._numbers[name] for members in self.groups.values() for name in members]
        edges = pruned.edges.tolil()
        for target in pins:
            for source in pins:
                if value := graph.adjacency[target, source]:
                    edges[target, source] = value
        kept = np.union1d(pruned.kept, [*pins.tolist(), *grouped]).astype(int)
        return PrunedGraph(graph=graph, kept=kept, edges=sparse.csr_array(edges), settings=pruned.settings)

    def write_neuronpedia(self, path: str | Path, *, slug: str, **about: Any) -> Path:
        """Write what is drawn, with pins and supernodes, as graph JSON; options as for
        :func:`circuits.graphs.write_neuronpedia`."""
        shown = self.shown()
        kept = set(shown.kept.tolist())
        labels = {number: text for number, text in self._labels.items() if number in kept}
        options: dict[str, Any] = {"labels": labels, "view": self.view_state, "measurement": self._measurement} | about
        return write_neuronpedia(shown, path, slug=slug, **options)

    def intervene(
        self, nodes: Sequence[str], *, how: str = "set", value: float = 0.0, mode: str = "live"
    ) -> tuple[np.ndarray, Intervened]:
        """Change latents, and see what follows: by node how much edges alone say that it rises, and what was measured.

        Args:
            nodes: Ids of latents.
            how: ``set``, ``scale`` or ``add``.
            value: What they are set to, scaled by, or raised by.
            mode: One of ``circuits.graphs.interventions.changes.MODES``.

        Raises:
            ValueError: nodes that are no latents; an unknown mode or change; a graph without its model.
        """
        if how not in _HOWS:
            raise ValueError(f"how is {how!r}; latents are changed by {', '.join(_HOWS)}")
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
        if not np.isfinite(value):
            raise ValueError(f"value is {value}; it is a finite number")
        changes = []
        for name in dict.fromkeys(nodes):
            self._require(name)
            node = self.graph.node(self._numbers[name])
            if node.kind != "latent":
                raise ValueError(f"{node.name} is no latent: only latents can be changed; select dots alone")
            changes.append(LatentChange(node.layer, node.index, float(value), how, node.position))  # type: ignore[arg-type]
        found = self.graph.intervene(changes, mode=mode)
        return self.graph.predict(changes), found

    def detail(self, node: str) -> list[Mapping[str, Any]]:
        """What the browser shows of a node beside its edges, as plain data.

        Raises:
            ValueError: an unknown node.
        """
        self._require(node)
        return self._details.of(self._numbers[node])

    def saved(self, *, details: int = 60) -> dict[str, Any]:
        """What :meth:`save` writes, as plain data; details are those of the most influential nodes."""
        about = self.about | {
            "saved": "A saved page cannot run the model: circuits.GraphExplorer in a notebook runs interventions."
        }
        singles = {name: self.detail(name) for name in list(self._sent)[:details]}
        return {"state": self._state(about), "details": singles, "measured": {}, "nothing": {}}

    @validate("node_threshold", "threshold")
    def _check_share(self, proposal: Any) -> float:
        if not 0 <= proposal["value"] <= 1:
            raise ValueError(
                f"{proposal['trait'].name} is {proposal['value']}; it is a share of influence, from 0 to 1"
            )
        # Beyond it the browser would lack nodes.
        return min(float(proposal["value"]), self._shares if proposal["trait"].name == "node_threshold" else 1.0)

    def _require(self, node: str) -> None:
        if node not in self._sent:
            known = list(self._sent)
            there = "; it is in the graph, but not among those drawn: prune less" if node in self._numbers else ""
            raise ValueError(f"{node!r} is not a node of this explorer, which has {', '.join(known[:4])} …{there}")

    def _about_node(self, node: str, content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return self.detail(node)

    def _answer(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("kind") != "intervene":
            return super()._answer(_widget, content, _buffers)
        how, mode = str(content.get("how")), str(content.get("mode"))
        try:
            value = float(content.get("value", 0.0))
            said, found = self.intervene(self.selection, how=how, value=value, mode=mode)
        except (TypeError, ValueError) as error:
            self.measured = {"words": str(error), "failed": True}
            return None
        targets = np.flatnonzero(self.graph.mask(TARGET))
        names = ", ".join(self.graph.node(self._numbers[name]).name for name in self.selection[:3])
        more = f" and {len(self.selection) - 3} more" if len(self.selection) > 3 else ""
        self.measured = {
            "words": f"{names}{more} {_HOWS[how]} {value:g}, {mode}. Edges say what each adds directly: exact in the"
            " mode direct.",
            "rows": [
                [name, float(said[number]), float(found.change[number])]
                for name, number in zip(self.graph.target_names, targets.tolist(), strict=True)
            ],
            "tokens": [[self._details.text_of(i), after, before] for i, after, before in found.top(_LISTED)],
        }
        return None


def _opened(graph: AttributionGraph) -> PrunedGraph:
    """Pruned by the usual shares; a graph of a file was pruned by whoever wrote it."""
    return graph.prune() if graph.source is not None else graph.prune(nodes=1.0, edges=1.0)


def _fitting(view: Mapping[str, Any], known: Mapping[str, int]) -> dict[str, Any]:
    """What a file says of its view, as far as it fits: other tools let a node be in two supernodes, two supernodes have
    one name, and pins be of nodes that were pruned."""
    groups: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, *members in view.get("supernodes", []):
        mine = [member for member in dict.fromkeys(members) if member in known and member not in seen]
        own, number = name or "group", 1
        while own in groups or own in known:
            number += 1
            own = f"{name or 'group'} {number}"
        if mine:
            groups[own] = mine
            seen.update(mine)
    return {
        "pinnedIds": [name for name in view.get("pinnedIds", []) if name in known],
        "supernodes": [[name, *members] for name, members in groups.items()],
        "selected": [name for name in [view.get("clickedId")] if name in known],
    }


def _brief(prompt: str, most: int = 120) -> str:
    return prompt if len(prompt) <= most else f"{prompt[:most]} …"
