"""What the explorer draws: parts of a model in rows (stages, from the input up) and columns (positions or components).

Three things have this form: a circuit of edges, whose parts are summed over positions; the features and errors of
sparse autoencoders, by position; and scores of nodes, without edges.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuits.attribution.features import FeatureCircuit, FeatureScores
from circuits.circuit import EMBED, LOGITS, Circuit, layer_of
from circuits.features.edges import FeatureNode
from circuits.scores.nodes import Scores
from interp.sites.site import Site

MOST_NODES, MOST_EDGES = 500, 2000
"""What is still fluid to look at; of larger graphs the strongest parts are shown, and the graph says so."""
_IN_A_BLOCK = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
_ROW_NAMES = {"z": "heads", "mlp_out": "MLP", "mlp_post": "neurons", "attn_out": "attention"}
_KINDS = {
    "embed": "embed",
    "mlp_out": "mlp",
    "attn_out": "attention",
    "mlp_post": "neuron",
    **dict.fromkeys(("q", "k", "v", "z"), "head"),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One node: where it is, as ``circuits.anatomy.nodes`` has it, and what it is drawn as."""

    id: str
    """What selections and links call it, such as ``a1.h3@5``."""
    kind: str
    """``embed``, ``head``, ``mlp``, ``attention``, ``neuron``, ``residual``, ``latent``, ``error`` or ``logits``."""
    family: str
    """Family of its node, such as ``z``, or ``embed`` and ``logits``."""
    layer: int
    """Layer of its node, which decides its row."""
    score: float
    """Score of the node, with its sign."""
    position: int | None = None
    """None where positions are taken together."""
    index: int | None = None
    """Of a head, neuron or latent."""

    @property
    def site(self) -> str:
        """As an SAE names it."""
        return str(Site(self.family, self.layer))

    @property
    def label(self) -> str:
        """Short, since row and column say the rest."""
        if self.kind in ("latent", "neuron"):
            return f"#{self.index}"
        if self.kind == "error":
            return "error"
        if self.kind in ("residual", "attention"):
            return f"{'resid' if self.kind == 'residual' else 'attn'} {self.layer}"
        if self.family in ("q", "k", "v"):
            return f"{self.family}{self.layer}.{self.index}"
        if self.kind == "mlp":
            return f"m{self.layer}"
        return f"a{self.layer}.h{self.index}" if self.kind == "head" else self.kind

    @property
    def stage(self) -> tuple[int, int]:
        """Order of computation."""
        order = _IN_A_BLOCK.index(self.family) if self.family in _IN_A_BLOCK else 0
        return self.layer, order

    @property
    def row_name(self) -> str:
        """Of its stage."""
        return (
            self.family if self.kind in (EMBED, LOGITS) else f"{self.layer} {_ROW_NAMES.get(self.family, self.family)}"
        )


@dataclass(frozen=True, kw_only=True)
class Link:
    """One edge, into ``reader`` (``q``, ``k``, ``v``, or nothing where a part reads in one way only)."""

    source: str
    """Id of the part that writes."""
    target: str
    """Id of the part that reads."""
    score: float
    """Score of the edge, with its sign."""
    reader: str = ""
    """How the target reads: ``q``, ``k``, ``v``, or nothing where there is one way only."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Parts by id, the links between them, and the names of columns."""

    parts: Mapping[str, Part]
    """What is drawn, by its id."""
    links: Sequence[Link]
    """Edges between these parts, by their ids."""
    columns: Sequence[str]
    """Names of the columns, from left to right."""
    by_position: bool
    """Whether columns are positions, and not components."""
    note: str = ""
    """What a reader has to know of it, such as what was left out."""

    def strongest(self, *, nodes: int = MOST_NODES, edges: int = MOST_EDGES) -> "Graph":
        """The parts and links of largest absolute score; input and logits stay."""
        ranked = sorted(self.parts.values(), key=lambda part: (part.kind not in (EMBED, LOGITS), -abs(part.score)))
        kept = {part.id for part in ranked[:nodes]}
        links = [link for link in self.links if link.source in kept and link.target in kept]
        shown = sorted(links, key=lambda link: -abs(link.score))[:edges]
        if len(kept) == len(self.parts) and len(shown) == len(self.links):
            return self
        note = (
            f"The strongest {len(kept):,} of {len(self.parts):,} nodes and {len(shown):,} of {len(self.links):,} edges."
        )
        return replace(self, parts={i: part for i, part in self.parts.items() if i in kept}, links=shown, note=note)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the browser: each node with its row and column."""
        stages = sorted({part.stage for part in self.parts.values()})
        names = {part.stage: part.row_name for part in self.parts.values()}
        return {
            "rows": [names[stage] for stage in stages],
            "columns": list(self.columns),
            "by_position": self.by_position,
            "note": self.note,
            "nodes": [
                {
                    "id": part.id,
                    "label": part.label,
                    "kind": part.kind,
                    "row": stages.index(part.stage),
                    "column": self._column(part),
                    "position": part.position,
                    "score": part.score,
                }
                for part in self.parts.values()
            ],
            "edges": [
                {"source": link.source, "target": link.target, "reader": link.reader, "score": link.score}
                for link in self.links
            ],
        }

    def _column(self, part: Part) -> int | None:
        """None for what stands in the middle."""
        if self.by_position:
            return part.position
        return len(self.columns) - 1 if part.kind == "mlp" else part.index


def part_of(name: str, score: float, *, position: int | None = None) -> Part:
    """A node of a circuit, such as ``a1.h2`` or ``m0``, at a position if given."""
    head = int(name.split(".h")[1]) if ".h" in name else None
    family = name if name in (EMBED, LOGITS) else "mlp_out" if head is None else "z"
    return Part(
        id=name if position is None else f"{name}@{position}",
        kind=_KINDS.get(family, LOGITS),
        family=family,
        layer=layer_of(name),
        score=float(score),
        position=position,
        index=head,
    )


def graph_of_circuit(circuit: Circuit) -> Graph:
    """Heads side by side in a row, MLPs in a column of their own, a link to each head that shares a reader."""
    parts = {name: part_of(name, score) for name, score in circuit.nodes.items()}
    heads = 1 + max((part.index for part in parts.values() if part.index is not None), default=-1)
    links = [
        Link(source=u, target=v, score=score, reader=reader_part(reader))
        for (u, reader), score in circuit.edges.items()
        for v in circuit.groups[reader]
        if v in parts
    ]
    columns = [*(f"head {head}" for head in range(heads)), "MLP"]
    return Graph(parts=parts, links=links, columns=columns, by_position=False)


def reader_part(reader: str) -> str:
    """``q``, ``k`` or ``v`` of a reader in attention, else nothing."""
    part = reader.rsplit(".", 1)[-1]
    return part if part in ("q", "k", "v") else ""


def graph_of_features(
    circuit: FeatureCircuit,
    scores: FeatureScores,
    edges: Mapping[tuple[FeatureNode, FeatureNode], float] | None,
    labels: Sequence[str],
) -> Graph:
    """Features and errors of a circuit, a row for each site."""
    parts = {}
    for name, mask in circuit.features.items():
        site = Site.parse(name)
        assert site.layer is not None
        nodes: list[tuple[int, int | None, float]] = [
            (p, f, float(scores.features[name][p, f])) for p, f in mask.nonzero().tolist()
        ]
        nodes += [(p, None, float(scores.errors[name][p])) for p in circuit.errors[name].nonzero().flatten().tolist()]
        for position, feature, score in nodes:
            part = Part(
                id=str(FeatureNode(name, position, feature)),
                kind="error" if feature is None else "latent",
                family=site.kind,
                layer=site.layer,
                score=score,
                position=position,
                index=feature,
            )
            parts[part.id] = part
    links = [Link(source=str(u), target=str(v), score=float(score)) for (u, v), score in (edges or {}).items()]
    return Graph(parts=parts, links=links, columns=labels, by_position=True)


def graph_of_scores(scores: Iterable[Scores]) -> Graph:
    """Nodes of one or more families with the scores of one method, by position or with a column for each head."""
    families = list(scores)
    if not families:
        raise ValueError("there are no scores to show; pass what circuits.attribute returned")
    if len({tuple(family.axes[1:2]) == ("position",) for family in families}) > 1:
        raise ValueError("some of these scores are by position and others are not; show them in two explorers")
    by_position = "position" in families[0].axes
    parts = {}
    for family in families:
        for node, score in zip(family.nodes, family.values.flatten().tolist(), strict=True):
            kind = _KINDS.get(node.family, "residual")
            parts[str(node)] = Part(
                id=str(node),
                kind=kind,
                family=node.family,
                layer=-1 if kind == EMBED else node.layer,
                score=score,
                position=node.position,
                index=node.index,
            )
    if by_position:
        length = families[0].values.shape[1]
        columns: Sequence[str] = families[0].labels or [str(position) for position in range(length)]
    else:
        columns = [f"head {head}" for head in range(1 + max((p.index or 0 for p in parts.values()), default=0))] + [
            "MLP"
        ]
    return Graph(parts=parts, links=[], columns=columns, by_position=by_position)
