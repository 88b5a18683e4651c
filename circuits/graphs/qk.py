"""Why a head looks where it looks: a score of attention as a sum over pairs of sources (query side, key side).

Before the softmax a score is bilinear in the query at its position and the key at its own: ``q M k``, where ``M``
holds the scale, rotary embedding at both positions, and norms of queries and keys with their scales as constants
(whose biases pair with what stands on the other side). Query and key are sums over sources along the frozen linear
map, so the score is a sum over pairs. ``M`` is the second derivative of the score that the model itself computes, so
no attention is written again.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, anatomy_of, part_of_projection
from circuits.anatomy.wiring import head_projection
from circuits.graphs.graph import AttributionGraph
from circuits.graphs.linear.local_model import ATTENTION_INPUT, Injection, local_model
from circuits.graphs.linear.sources import KINDS, Sources
from circuits.rules import with_gradient_of
from interp.models.plain import PlainCopy
from interp.sites.norms import linear_norm
from interp.sites.site import Site
from interp.sites.softmax import SCORES, show_softmax
from interp.terminal.short_repr import short_repr

REST, BIAS, LEFT_OUT = "all other sources", "biases", "positions left out"
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorePairs:
    """One score, taken apart.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import score_pairs
        >>> pairs = score_pairs(graph, 1, 0, query=5, key=2, most=4)
        >>> abs(float(pairs.pairs.sum()) - pairs.score) < 1e-3
        True
    """

    layer: int
    """Number of the layer whose attention it is."""
    head: int
    """Number of the head, among query heads."""
    query: int
    """Position that attends, counted from 0."""
    key: int
    """Position that is attended to, counted from 0."""
    score: float
    """Before a soft cap, where the family has one."""
    query_names: tuple[str, ...]
    """The sources of largest share, then ``REST``, ``BIAS`` and ``LEFT_OUT``, one for each row of ``pairs``."""
    key_names: tuple[str, ...]
    """The same for the key side, one for each column of ``pairs``."""
    pairs: Float64[Tensor, "query_source key_source"]
    """They sum to the score."""

    __repr__ = short_repr

    def top(self, k: int = 10) -> list[tuple[str, str, float]]:
        """The ``k`` largest pairs: query side, key side, what it adds to the score."""
        flat = self.pairs.flatten()
        order = flat.abs().topk(min(k, len(flat))).indices.tolist()
        width = len(self.key_names)
        return [(self.query_names[i // width], self.key_names[i % width], float(flat[i])) for i in order]


def score_pairs(graph: AttributionGraph, layer: int, head: int, *, query: int, key: int, most: int = 128) -> ScorePairs:
    """Why the query at one position attends to a key, by pairs of a graph's sources.

    Args:
        graph: With its model at hand.
        layer: Of attention.
        head: Its number, among query heads.
        query: A position.
        key: A position; a query sees keys up to its own.
        most: Sources listed on each side; the others are summed.

    Raises:
        ValueError: a layer, head or position that is not there, or a key that the query does not see; a family whose
            scores cannot be seen or are not bilinear; a graph without its model.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import score_pairs
        >>> pairs = score_pairs(graph, 1, 0, query=5, key=2, most=4)
        >>> pairs.query_names[-1], len(pairs.top(3))
        ('positions left out', 3)
    """
    _ = graph.reruns  # refuses a graph without its model
    source, length = graph.source, len(graph.tokens)
    anatomy: Anatomy = source.anatomy
    for name, value, count in (("layer", layer, graph.n_layers), ("head", head, anatomy.heads)):
        if not 0 <= value < count:
            raise ValueError(f"{name} is {value}; this model has {name}s 0 to {count - 1}")
    if not 0 <= key <= query < length:
        raise ValueError(
            f"query {query} does not see key {key}; positions are 0 to {length - 1}, keys up to the query's"
        )
    found = _Bilinear(source.model, source.ids, layer, head, query, key, anatomy)
    block, group = anatomy.blocks[layer], head * anatomy.key_value_heads // anatomy.heads
    site = Site(ATTENTION_INPUT, layer)
    with local_model(anatomy, source.ids, source.transcoders, kept=source.kept, sites=[site]) as local:
        sources = Sources(local, source.kept, source.split)
        sides = []
        for number, position, one in ((0, query, head), (1, key, group)):
            weights, bias = (part[one].detach() for part in head_projection(anatomy, block, number))
            injections = [Injection(site, position, row) for row in weights]
            effects = sources.effects(local.pull_back(injections, before=layer))
            rest = torch.stack([effects.bias + bias.double(), effects.left_out], dim=1)
            nothing = effects.of_columns.new_zeros(1, len(sources.columns))
            of_sources = torch.cat([effects.of_columns, nothing]).double()
            sides.append((of_sources, torch.cat([rest, rest.new_tensor([[1.0, 0.0]])])))
    (of_query, more_query), (of_key, more_key) = sides
    right = found.form @ torch.cat([of_key, more_key], 1).sum(1)
    left = torch.cat([of_query, more_query], 1).sum(1) @ found.form
    queries, query_names = _listed(graph, sources, of_query, more_query, (of_query.T @ right).abs(), most)
    keys, key_names = _listed(graph, sources, of_key, more_key, (left @ of_key).abs(), most)
    pairs = (queries.T @ found.form @ keys).cpu()
    size = float(pairs.abs().sum()) + abs(found.score)
    if abs(float(pairs.sum()) - found.score) > _TOLERANCE * size:
        raise ValueError(
            f"pairs of sources add up to {float(pairs.sum()):.6g}, the score is {found.score:.6g}: attention of this"
            " family adds something that is in neither queries nor keys"
        )
    return ScorePairs(
        layer=layer,
        head=head,
        query=query,
        key=key,
        score=found.score,
        query_names=query_names,
        key_names=key_names,
        pairs=pairs,
    )


def _listed(
    graph: AttributionGraph, sources: Sources, vectors: Tensor, more: Tensor, sizes: Tensor, most: int
) -> tuple[Float64[Tensor, "d_head_and_one listed"], tuple[str, ...]]:
    """Vectors of the largest sources, of all others together, and of what is no source; with their names."""
    top = sizes.topk(min(most, len(sizes))).indices
    top = top[sizes[top] > 0]
    others = vectors.sum(1, keepdim=True) - vectors[:, top].sum(1, keepdim=True)
    c = sources.columns
    names = []
    for i in top.tolist():
        at, kind = f"@{c.position[i]} {graph.labels[c.position[i]]!r}", KINDS[c.kind[i]]
        names.append(
            {"token": f"token {at}", "latent": f"latent {c.layer[i]}/{c.index[i]}{at}"}.get(
                kind, f"{kind} {c.layer[i]}{at}"
            )
        )
    return torch.cat([vectors[:, top], others, more], 1), (*names, REST, BIAS, LEFT_OUT)


class _Bilinear:
    """The form ``[d_head + 1, d_head + 1]`` of one score, and the score, from a pass through the model with its
    attention computed in steps."""

    def __init__(self, model: Any, ids: Tensor, layer: int, head: int, query: int, key: int, plain: Anatomy) -> None:
        if not plain.family.eager:
            raise ValueError("scores of this family cannot be seen: transformers computes its eager attention wrongly")
        self.anatomy = anatomy_of(PlainCopy(model, eager=True).model)
        self._block = self.anatomy.blocks[layer]
        group = head * self.anatomy.key_value_heads // self.anatomy.heads
        leaves, scores = self._run(ids)
        score = self._uncapped(scores[0, head, query, key])
        if not bool(score.isfinite()) or float(score.detach()) < -1e30:
            raise ValueError(f"query {query} does not see key {key} in layer {layer}, which looks back over a window")
        of_queries, of_keys = (part_of_projection(self.anatomy, number)[0] for number in (0, 1))
        slopes = torch.autograd.grad(score, [leaves["q"], leaves["k"]], create_graph=True)
        along_query, along_key = of_queries(slopes[0])[0, query, head], of_keys(slopes[1])[0, key, group]
        rows = []
        for entry in along_query:
            second = torch.autograd.grad(entry, [leaves["q"], leaves["k"]], retain_graph=True, allow_unused=True)
            again = None if second[0] is None else of_queries(second[0])[0, query, head]
            if again is not None and float(again.abs().max()) > _TOLERANCE * float(along_query.detach().abs().max()):
                raise ValueError("scores of this family are not linear in their queries, so they are no sums of pairs")
            assert second[1] is not None
            rows.append(of_keys(second[1])[0, key, group])
        self.score = float(score.detach())
        form = torch.stack(rows).detach().double()
        q, k = (
            read(leaves[name].detach())[0, position, one].double()
            for read, name, position, one in ((of_queries, "q", query, head), (of_keys, "k", key, group))
        )
        # What norms' biases add stands in a last row and column, which belong to biases alone.
        more_query, more_key = along_query.detach().double() - form @ k, along_key.detach().double() - q @ form
        corner = torch.tensor([self.score], dtype=torch.float64, device=q.device)
        corner = corner - q @ form @ k - more_query @ q - more_key @ k
        self.form: Float64[Tensor, "d_head_and_one d_head_and_one"] = torch.cat(
            [torch.cat([form, more_query[:, None]], 1), torch.cat([more_key, corner])[None]]
        )

    def _run(self, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        block, leaves, seen = self._block, {}, []

        def begin(names: Sequence[str]) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
                leaf = output.detach().requires_grad_()
                leaves.update(dict.fromkeys(names, leaf))
                return leaf

            return hook

        with ExitStack() as stack, torch.enable_grad():
            stack.callback(show_softmax(block.attention))
            point = block.attention._modules[SCORES]
            assert point is not None
            stack.callback(point.register_forward_hook(lambda _m, _a, value: seen.append(value)).remove)
            both = [(block.q, ["q", "k"])] if block.q is block.k else [(block.q, ["q"]), (block.k, ["k"])]
            for module, names in both:
                stack.callback(module.register_forward_hook(begin(names)).remove)
            for norm in (block.q_norm, block.k_norm):
                if norm is not None:
                    stack.callback(norm.register_forward_hook(_frozen).remove)
            root: Any = self.anatomy.root
            root(input_ids=ids[None], use_cache=False, logits_to_keep=1)
        return leaves, seen[0]

    def _uncapped(self, score: Tensor) -> Tensor:
        """Before a soft cap."""
        config: Any = self.anatomy.root.config
        cap = getattr(config, "attn_logit_softcapping", None)
        return score if cap is None else cap * torch.atanh(score / cap)


def _frozen(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return with_gradient_of(output, linear_norm(module)(args[0]))
