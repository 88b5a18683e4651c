"""The attribution graph of one prompt: nodes, edges, influence, scores, and what can be asked of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse

from circuits.graphs.influence import GraphScores, cumulative, graph_scores, influence_of, normalised, pruned
from circuits.graphs.interventions.changes import Intervened, LatentChange, checked_changes
from circuits.graphs.interventions.reruns import Readout, Reruns
from circuits.graphs.linear.local_model import UNEMBEDDING
from circuits.graphs.linear.sources import KINDS, Columns
from interp.terminal.short_repr import short_repr

TOKEN, ERROR, LINEAR_ERROR, LATENT, TARGET = range(5)


@dataclass(frozen=True)
class GraphNode:
    """One node.

    ``index`` is the number of a latent, or a token's id; of errors and of targets that are no single logit it is -1.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> node = graph.top(1)[0]
        >>> node.kind, node.position
        ('token', 5)
    """

    number: int
    """Its number among the graph's nodes."""
    kind: str
    """One of ``circuits.graphs.linear.sources.KINDS``, as text."""
    layer: int
    """-1 for tokens; for logits the number of layers."""
    position: int
    """Position in the prompt, counted from 0."""
    index: int
    """Number of a latent, or a token's id; else -1."""
    value: float
    """Of a latent its activation; of a target its value; of errors and tokens their norm."""
    influence: float
    """Its influence on the targets over all paths, 0 or more."""
    name: str
    """Kind, layer, number and place, for tables and pages."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributionGraph:
    """Direct effects along the frozen linear map of one prompt (:func:`circuits.attribution_graph`).

    Nodes are numbered as in circuit-tracer: latents by layer, position and number; errors (linear ones behind the
    others); tokens; targets. ``adjacency[t, s]`` is what source ``s`` adds to the pre-activation of latent ``t``, or to
    target ``t``. For every row that is known, ``adjacency`` summed plus ``unselected``, ``left_out`` and ``bias`` is
    ``pre_activation``.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> 0 < graph.scores.replacement < 1
        True
    """

    model: str
    """Name of the model, as it was loaded."""
    prompt: str
    """Text of the prompt, or its ids where there is no tokenizer."""
    tokens: tuple[int, ...]
    """Ids of the prompt's tokens."""
    labels: tuple[str, ...]
    """Text of each of the tokens."""
    n_layers: int
    """Number of the model's blocks."""
    nodes: Columns
    """What each node is, in arrays over nodes."""
    target_names: tuple[str, ...]
    """Names of the targets, the last nodes."""
    adjacency: sparse.csr_array
    """Direct effects ``[target, source]``, in the unit of the target's pre-activation."""
    weights: np.ndarray
    """Weights of targets (probabilities of logits); 0 for other nodes."""
    pre_activation: np.ndarray
    """Pre-activations of latents, values of targets; NaN for others, as are the next three."""
    bias: np.ndarray
    """What biases add: those of the model, of decoders and encoders, of the unembedding."""
    left_out: np.ndarray
    """What MLPs add that wrote at the positions left out."""
    unselected: np.ndarray
    """What sources add that are no nodes: latents beyond ``max_nodes``, and entries too small to be kept."""
    n_active: int
    """Latents active on the prompt, of which ``max_nodes`` at most are nodes."""
    left_out_positions: tuple[int, ...]
    """Positions at which no transcoder stands in."""
    cost: Mapping[str, float]
    """What it took: forwards and backwards through the model, and seconds."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: transcoders, options, as plain data."""
    source: Any = None
    """The model and its transcoders, where they are at hand: what interventions and measurements run."""

    __repr__ = short_repr

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    def mask(self, *kinds: int) -> np.ndarray:
        """Boolean ``[node]``: which nodes are of some kinds."""
        return np.isin(self.nodes.kind, kinds)

    @cached_property
    def influence(self) -> np.ndarray:
        """``[node]``: on the targets, over all paths."""
        return influence_of(normalised(self.adjacency), self.weights)

    @cached_property
    def cumulative_influence(self) -> np.ndarray:
        """``[node]``, 0 to 1: the share of all influence in the node and those above it."""
        return cumulative(self.influence)

    @cached_property
    def scores(self) -> GraphScores:
        """Replacement and completeness."""
        return graph_scores(
            self.adjacency,
            self.weights,
            tokens=self.mask(TOKEN),
            errors=self.mask(ERROR),
            linear=self.mask(LINEAR_ERROR),
        )

    @cached_property
    def reruns(self) -> Reruns:
        """Passes of the prompt with changes, counted.

        Raises:
            ValueError: the graph was read from a file, without its model.
        """
        if self.source is None:
            raise ValueError(
                "this graph has no model at hand, since it was read from a file: make it anew with"
                " circuits.attribution_graph(model, prompt, transcoders)"
            )
        source = self.source
        sites = [t.injection.site for t in source.targets if t.injection.site != UNEMBEDDING]
        return Reruns(source.anatomy, source.ids, source.transcoders, source.kept, sites)

    @cached_property
    def readout(self) -> Readout:
        """Of all latents and targets, in the order of their numbers."""
        n, latents = self.nodes, self.mask(LATENT)
        targets = [target.injection for target in self.source.targets]
        return Readout(self.source.transcoders, n.layer[latents], n.position[latents], n.index[latents], targets)

    def intervene(self, changes: Sequence[LatentChange], *, mode: str = "live") -> Intervened:
        """Change latents on this prompt, and see how latents and logits answer.

        Args:
            changes: Of any latents, nodes or not.
            mode: One of ``circuits.graphs.interventions.changes.MODES``.

        Raises:
            ValueError: changes or mode that do not fit; a graph without its model.
        """
        runs = self.reruns
        checked_changes(changes, runs.transcoders, runs.kept)
        run = runs.run(mode, changes=[changes])
        moved = (self.readout(run) - self.readout(runs.clean.run))[0].numpy()
        change = np.full(len(self), np.nan)
        change[self.mask(LATENT, TARGET)] = moved
        return Intervened(mode=mode, change=change, logits=run.logits[0], clean_logits=runs.clean.run.logits[0])

    def predict(self, changes: Sequence[LatentChange]) -> np.ndarray:
        """By node, how much its pre-activation (a target's value) rises by edges alone: what ``direct`` measures.

        Raises:
            ValueError: a latent that is no node at a position; changes everywhere (position None) are of all nodes.
        """
        rise = np.where(self.mask(LATENT, TARGET), 0.0, np.nan)
        for change in changes:
            mine = self.mask(LATENT) & (self.nodes.layer == change.layer) & (self.nodes.index == change.index)
            if change.position is not None:
                mine &= self.nodes.position == change.position
            if not mine.any():
                raise ValueError(f"{change} is of a latent that is no node of this graph")
            value = self.pre_activation[mine]
            delta = change.delta(torch.from_numpy(value)).numpy()
            rise = rise + self.adjacency[:, np.flatnonzero(mine)] @ (delta / value)
        return rise

    def node(self, number: int | np.integer) -> GraphNode:
        """One node by its number."""
        n, number = self.nodes, int(number)
        return GraphNode(
            number,
            KINDS[n.kind[number]],
            int(n.layer[number]),
            int(n.position[number]),
            int(n.index[number]),
            float(n.value[number]),
            float(self.influence[number]),
            self._name(number),
        )

    def _name(self, number: int) -> str:
        n = self.nodes
        kind, layer, position = n.kind[number], n.layer[number], n.position[number]
        at = f"@{position} {self.labels[position]!r}"
        if kind == TARGET:
            return f"output {self.target_names[number - (len(self) - len(self.target_names))]!r}"
        if kind == TOKEN:
            return f"token {at}"
        if kind == LATENT:
            return f"latent {layer}/{n.index[number]}{at}"
        return f"{KINDS[kind]} {layer}{at}"

    def top(self, k: int = 10, *kinds: int) -> list[GraphNode]:
        """The ``k`` most influential nodes, of some kinds only where they are given."""
        allowed = np.flatnonzero(self.mask(*kinds)) if kinds else np.arange(len(self))
        order = allowed[np.argsort(-self.influence[allowed], kind="stable")][:k]
        return [self.node(int(number)) for number in order]

    def prune(self, *, nodes: float = 0.8, edges: float = 0.98) -> "PrunedGraph":
        """The fewest nodes that hold a share of all influence, and among them the fewest edges that hold a share of
        theirs; by circuit-tracer's formulas.

        Raises:
            ValueError: shares that are not from 0 to 1.
        """
        stay, kept = pruned(
            self.adjacency,
            self.weights,
            nodes=nodes,
            edges=edges,
            always=self.mask(TOKEN, TARGET),
            latents=self.mask(LATENT),
        )
        return PrunedGraph(graph=self, kept=np.flatnonzero(stay), edges=kept, settings={"nodes": nodes, "edges": edges})

    def find(self, kind: str, *, layer: int = -1, position: int, index: int = -1) -> int:
        """The number of a node.

        Raises:
            ValueError: there is none.
        """
        n = self.nodes
        if kind not in KINDS:
            raise ValueError(f"there is no kind of node {kind!r}; there are {', '.join(KINDS)}")
        where = (n.kind == KINDS.index(kind)) & (n.layer == layer) & (n.position == position)
        if kind == "latent":
            where &= n.index == index
        found = np.flatnonzero(where)
        if not len(found):
            raise ValueError(f"the graph has no {kind} of layer {layer} at position {position} with number {index}")
        return int(found[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedGraph:
    """The part of a graph that holds most of the influence.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> pruned = graph.prune(nodes=0.5)
        >>> len(pruned) < len(graph), pruned.settings["nodes"]
        (True, 0.5)
    """

    graph: AttributionGraph
    """The whole graph that it is part of."""
    kept: np.ndarray
    """Numbers of the nodes that stay."""
    edges: sparse.csr_array
    """As ``adjacency``, with only the edges that stay."""
    settings: Mapping[str, float]
    """Shares of influence that were kept, from 0 to 1: ``nodes`` and ``edges``."""

    __repr__ = short_repr

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.kept)

    @cached_property
    def links(self) -> list[tuple[int, int, float]]:
        """Source, target, direct effect; the largest first, by absolute value."""
        edges = self.edges.tocoo()
        found = zip(edges.coords[1].tolist(), edges.coords[0].tolist(), edges.data.tolist(), strict=True)
        return sorted(found, key=lambda link: -abs(link[2]))

    def nodes(self) -> Iterator[GraphNode]:
        """Those that stay."""
        return (self.graph.node(int(number)) for number in self.kept)


def columns_of(parts: Sequence[Columns]) -> Columns:
    """Several lists of nodes as one."""
    return Columns(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("kind", "layer", "position", "index", "value")
        }
    )
