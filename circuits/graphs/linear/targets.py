"""What a graph explains: logits, differences of logits, or any direction at a place before the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graphs.linear.local_model import UNEMBEDDING, Injection, LocalModel
from interp.sites.site import Site
from interp.terminal.short_repr import short_repr

SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "ln2_normalized", "resid_post")
PROBABILITY, MOST = 0.95, 10


@dataclass(frozen=True, eq=False)
class Direction:
    """A target of one's own: the product of a vector with what is at a site and position.

    Attributes:
        name: For tables and pages.
        vector: The direction, of shape ``[d_model]``.
        site: One of ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_in``, ``ln2_normalized``, ``resid_post``.
        position: Counted from the end where it is negative.
        weight: How much of the graph's influence starts there.

    Example:
        >>> import circuits, interp, saes
        >>> import torch
        >>> from circuits.graphs import Direction
        >>> model, transcoders = interp.load_model("embedded"), saes.embedded_transcoders()
        >>> targets = [Direction("mine", torch.ones(96), "blocks.2.hook_resid_post")]
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, targets=targets, max_nodes=8)
        >>> graph.target_names
        ('mine',)
    """

    name: str
    vector: Float[Tensor, " d"]
    site: str
    position: int = -1
    weight: float = 1.0

    __repr__ = short_repr


@dataclass(frozen=True)
class Difference:
    """The logit of one token (text or id) minus that of another, at the last position.

    Example:
        >>> import circuits, interp, saes
        >>> from circuits.graphs import Difference
        >>> model, transcoders = interp.load_model("embedded"), saes.embedded_transcoders()
        >>> targets = [Difference(" of", " to")]
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, targets=targets, max_nodes=8)
        >>> graph.target_names
        (' of -  to',)
    """

    token: str | int
    """The token whose logit is added, as text or id."""
    minus: str | int
    """The token whose logit is taken away, as text or id."""
    weight: float = 1.0
    """How much of the graph's influence starts there."""


Targets = Sequence[Direction | Difference | str | int] | None
"""None for the smallest set of tokens that holds 95 % of the probability, at most 10; or a list of tokens (texts or
ids), ``Difference`` and ``Direction``."""


@dataclass(frozen=True, eq=False)
class Target:
    """One target, ready to be pulled back."""

    name: str
    """The name in tables and on pages."""
    injection: Injection
    """The direction, and the place at which it is pulled back."""
    offset: float
    """Added to the product: biases of the unembedding."""
    weight: float
    """How much of the graph's influence starts there; a logit's probability."""
    tokens: tuple[int, ...]
    """The token of a logit, both of a difference; none of a direction."""
    layer: int
    """Before which its sources are."""

    @property
    def token(self) -> int | None:
        """Of a single logit."""
        return self.tokens[0] if len(self.tokens) == 1 else None


def sites_of(targets: Targets) -> list[Site]:
    """Where directions are, which the forward pass must take down.

    Raises:
        ValueError: a kind of site that does not do.
    """
    sites = [Site.parse(target.site) for target in targets or () if isinstance(target, Direction)]
    for site in sites:
        if site.kind not in SITES or site.layer is None:
            raise ValueError(f"a target cannot be at {site}; it can be at {', '.join(SITES)} of a layer")
    return sites


@torch.no_grad()
def resolve(targets: Targets, local: LocalModel, tokenizer: Any) -> tuple[Target, ...]:
    """Targets of one prompt.

    A logit's direction is its column of the unembedding minus the mean column, so that what moves all logits alike
    does not count. It is the unembedding's own output: a soft cap, or a factor that the family has behind it, comes
    later. Weights are the model's probabilities.

    Raises:
        ValueError: an empty list, a text that is not one token, ids, positions and vectors that do not fit.
    """
    head: Any = local.anatomy.root
    head = head.get_output_embeddings()
    probabilities = local.logits.double().softmax(-1)
    if targets is None:
        ranked = probabilities.sort(descending=True)
        needed = int((ranked.values.cumsum(0) < PROBABILITY).sum()) + 1
        targets = ranked.indices[: min(needed, MOST)].tolist()
    if not targets:
        raise ValueError("targets is empty; name a token at least, or leave it out for the likeliest ones")
    weight = head.weight.detach()
    bias = torch.zeros(len(weight), dtype=weight.dtype) if head.bias is None else head.bias.detach()
    found = []
    for target in targets:
        if isinstance(target, Direction):
            found.append(_direction(target, local))
            continue
        if isinstance(target, Difference):
            ids = [token_id(one, tokenizer, len(weight)) for one in (target.token, target.minus)]
            names = [_shown(one, tokenizer) for one in ids]
            name, share = f"{names[0]} - {names[1]}", target.weight
            vector, offset = weight[ids[0]] - weight[ids[1]], float(bias[ids[0]] - bias[ids[1]])
        else:
            token = token_id(target, tokenizer, len(weight))
            ids = [token]
            name, share = _shown(token, tokenizer), float(probabilities[token])
            vector, offset = weight[token] - weight.mean(0), float(bias[token] - bias.mean())
        last = Injection(UNEMBEDDING, -1, vector)
        found.append(Target(name, last, offset, share, tuple(ids), len(local.anatomy.blocks)))
    if not any(target.weight for target in found):
        raise ValueError("the targets' weights are all 0; give one a weight above 0")
    return tuple(found)


def _direction(target: Direction, local: LocalModel) -> Target:
    site, length, d = Site.parse(target.site), len(local.ids), local.embedding.shape[-1]
    if tuple(target.vector.shape) != (d,):
        raise ValueError(f"the vector of {target.name!r} has shape {list(target.vector.shape)}; this model has [{d}]")
    if not -length <= target.position < length:
        raise ValueError(f"{target.name!r} is at position {target.position}; the prompt has {length} tokens")
    if not target.weight >= 0:
        raise ValueError(f"the weight of {target.name!r} is {target.weight}; it must be 0 or more")
    assert site.layer is not None
    layer = site.layer + (site.kind == "resid_post")
    vector = target.vector.detach().to(local.embedding)
    return Target(target.name, Injection(site, target.position % length, vector), 0.0, target.weight, (), layer)


def token_id(token: str | int, tokenizer: Any, vocabulary: int) -> int:
    """The id of a token given by its text.

    Raises:
        ValueError: text that is not one token, an id outside the vocabulary, or text and no tokenizer.
    """
    if isinstance(token, str):
        if tokenizer is None:
            raise ValueError(f"{token!r} is text, and this model has no tokenizer: give ids")
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"{token!r} is {len(ids)} tokens {[tokenizer.decode([i]) for i in ids]}; a target is one")
        return int(ids[0])
    if not 0 <= token < vocabulary:
        raise ValueError(f"there is no token {token}; the unembedding has 0 to {vocabulary - 1}")
    return int(token)


def _shown(token: int, tokenizer: Any) -> str:
    return str(token) if tokenizer is None else tokenizer.decode([token])
