"""A circuit of edges unfolded over the positions of the task: which part at which token hands on to which.

Edge scores are sums over positions (``circuits.attribution.edges``). Here each is taken apart again:

- into an MLP or the logits, writer and reader stand at the same position;
- into a head that writes at position q, a query is read at q, keys and values at any position k up to q. The gradient
  at a key or value is a sum over the positions that attend to it, and each term is one link from k to q.

So the links of one edge sum to its score (by gradients in the base run: ``eap``, or ``relp`` under rules). They need a
backward pass through the attention of a layer for each position.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from circuits.anatomy.anatomy import require_heads_apart
from circuits.anatomy.nodes import Hook
from circuits.anatomy.wiring import PARTS, End, Wiring, output_weights
from circuits.attribution.edge_gradients import through_norm
from circuits.circuit import EMBED, LOGITS, Circuit
from circuits.explorer.graph import Graph, Link, Part, part_of, reader_part
from circuits.runs.pair import Contrast, Session, contrast, open_session
from circuits.tasks.task import Task


@torch.enable_grad()
def unfold(model: Any, task: Task, circuit: Circuit, *, least: float = 1e-3) -> Graph:
    """The circuit's nodes and edges by position. Direction and rules of relevance are those of the circuit's scores.

    Args:
        least: Links below this share of the strongest are left out, and nodes that then have none.

    Raises:
        ValueError: as :func:`circuits.attribute`; a circuit of another model; a family in which heads share a norm of
            queries and keys.
    """
    task.require_aligned("links of an unfolded circuit")
    rules = circuit.about.get("rules")
    in_force = None if rules is None else frozenset(rules)
    session = open_session(model, task.replace(direction=circuit.about.get("direction", task.direction)))
    require_heads_apart(session.anatomy, purpose="unfold by position the edges of")
    unfolding = _Unfolding(session, Wiring(session.anatomy), in_force)
    links = [
        Link(source=f"{u}@{k}", target=f"{v}@{q}", score=score, reader=reader_part(reader))
        for reader in {reader: None for _, reader in circuit.edges}
        for u, v, k, q, score in unfolding.links(reader, [u for u, r in circuit.edges if r == reader], circuit.nodes)
    ]
    strongest = max((abs(link.score) for link in links), default=0.0)
    links = [link for link in links if abs(link.score) > least * strongest]
    ends = {end for link in links for end in (link.source, link.target)}
    length = task.length
    parts: dict[str, Part] = {}
    for name in circuit.nodes:
        values = [0.0] * length if name == LOGITS else unfolding.node(name).tolist()
        parts |= {
            part.id: part for p, score in enumerate(values) if (part := part_of(name, score, position=p)).id in ends
        }
    labels = task.labels or [str(position) for position in range(length)]
    return Graph(parts=parts, links=links, columns=labels, by_position=True)


class _Unfolding:
    """Both runs, gradients at every hook that matters, and the graph of the base run kept."""

    def __init__(self, session: Session, wiring: Wiring, rules: frozenset[str] | None) -> None:
        self.session, self.wiring, self.rules = session, wiring, rules
        anatomy, hooks = session.anatomy, wiring.hooks
        self.first = hooks.resid_pre[0]
        self.stream = [wiring.stream(layer) for layer in range(len(anatomy.blocks))]
        self.mlp = wiring.entries.mlp
        self.projected = [Hook(block.o, entering=False) for block in anatomy.blocks]
        self.final = Hook(wiring.entries.logits, entering=True)
        parts = [node.change for part in PARTS for node in hooks.parts[part]]
        self.pair: Contrast = contrast(
            session,
            [self.first, *hooks.z, *hooks.mlp_out],
            gradients=True,
            rules=rules,
            also_base=[*parts, *self.stream, *self.mlp, *self.projected, self.final],
        )
        wanted = [self.first.change, *(p.change for p in (*hooks.z, *hooks.mlp_out)), *self.mlp, self.final]
        self.slopes = session.runner.gradients(self.pair.base_metric.sum(), self.pair.base, wanted, keep_graph=True)
        self.writers: Mapping[str, End] = {end.name: end for end in wiring.writers}
        self.readers: Mapping[str, End] = {end.name: end for end in wiring.readers}

    def node(self, name: str) -> Tensor:
        """Effect by position, ``[position]``."""
        end = self._end(self.writers, name)
        node = self._hooks(end)
        effect = self.pair.difference(node).double() * self.slopes[node.change].double()
        return (effect if end.head is None else effect[..., end.head, :]).sum(-1).mean(0)

    def links(
        self, reader: str, writers: Iterable[str], nodes: Iterable[str]
    ) -> Iterator[tuple[str, str, int, int, float]]:
        """Writer, node, and their positions, with the score, of the edges into one reader."""
        end, kept = self._end(self.readers, reader), set(nodes)
        if end.part is None:
            slope = self.slopes[self.final] if reader == LOGITS else self._into_mlp(end.layer)
            for u in writers:
                for p, score in enumerate(self._weights(u, slope).tolist()):
                    yield u, reader, p, p, score
            return
        for v in self.wiring.owners(end):
            if v in kept:
                for q, slope in self._into_head(end, self.readers[f"{v}.q"].head):
                    for u in writers:
                        for k, score in enumerate(self._weights(u, slope).tolist()):
                            yield u, v, k, q, score

    def _into_mlp(self, layer: int) -> Tensor:
        """The gradient ``[n, position, d]`` of what the layer's MLP reads of the stream."""
        slope = self.slopes[self.mlp[layer]]
        return self._before_norm(layer, slope) if self.wiring.entries.shared else slope

    def _before_norm(self, layer: int, slope: Tensor) -> Tensor:
        frozen = self.rules is not None and "ln" in self.rules
        norm, stream = self.wiring.entries.attention[layer], self.pair.base.value(self.stream[layer])
        return through_norm(norm, stream, slope[None], frozen)[0]

    def _into_head(self, end: End, head: int | None) -> Iterator[tuple[int, Tensor]]:
        """By the position where one head writes: gradients ``[n, position, d]`` of what its reader ``end`` reads."""
        assert end.part is not None
        if self.rules is not None and "ah" in self.rules and end.part != "v":
            return
        layer = end.layer
        z, node = self.wiring.hooks.z[layer].change, self.wiring.hooks.parts[end.part][layer]
        weights, _ = self.wiring.projections[end.part][layer]
        written, read = self.pair.base.wholes[z], self.pair.base.wholes[node.change]
        for q in range(self.session.task.length):
            only = torch.zeros_like(self.slopes[z])
            only[:, q, head] = self.slopes[z][:, q, head]
            if not only.any():
                continue
            (gradient,) = torch.autograd.grad(written, read, z.embed(only), retain_graph=True)
            part = node.change.read(gradient)[:, :, end.head]
            back = torch.einsum("npa,ad->npd", part, weights[end.head])
            yield q, self._before_norm(layer, back)

    def _weights(self, writer: str, slope: Tensor) -> Tensor:
        """What a writer's difference makes of a slope ``[n, position, d]``: ``[position]``."""
        end = self._end(self.writers, writer)
        difference = self.pair.difference(self._hooks(end))
        if end.head is not None:
            block = self.wiring.anatomy.blocks[end.layer]
            weights = output_weights(self.wiring.anatomy, block)[end.head]
            difference = torch.einsum("npa,ad->npd", difference[..., end.head, :], weights)
            if block.attention_post_norm is not None:
                before = self.pair.base.value(self.projected[end.layer])
                frozen = self.rules is not None and "ln" in self.rules
                slope = through_norm(block.attention_post_norm, before, slope[None], frozen)[0]
        return (difference.double() * slope.detach().double()).sum(-1).mean(0)

    def _hooks(self, end: End) -> Any:
        hooks = self.wiring.hooks
        if end.name == EMBED:
            return self.first
        return (hooks.mlp_out if end.head is None else hooks.z)[end.layer]

    def _end(self, known: Mapping[str, End], name: str) -> End:
        if name not in known:
            raise ValueError(f"{name!r} is not a part of this model: the circuit was found in another one")
        return known[name]
