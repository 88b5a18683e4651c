"""Read feed-forward neurons as words: value vectors times the unembedding (Geva et al. 2022, arXiv 2203.14680).

A neuron adds its value vector, times its activation, to the residual stream; the product of the vector with the
unembedding says which tokens it raises. Häon et al. 2025 (arXiv 2509.00328) take the plain product, without the final
norm; ``norm="gain"`` multiplies by the norm's weight first, and centres where the norm does. The size of a logit means
something only beside the others of its neuron: no activation is in it.

One layer is in memory at a time, in blocks of neurons, always in float32: in bfloat16 equal logits reorder the tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from interp import metrics
from interp.metrics import Estimate
from interp.models.bridge import Model, unwrapped
from interp.models.feed_forward import Neuron, Stack, final_gain, stack_of, value_vectors
from interp.models.fingerprint import weights_fingerprint
from interp.models.source import source_of
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr
from interp.value_vectors.action_tokens import ActionTokens
from interp.value_vectors.clusters import Cluster, Member, Token
from interp.value_vectors.vocabulary import Vocabulary, unembedding, vocabulary_of

Layers = str | Sequence[int]
"""``all``, ``early`` (the first half of them), ``late``, or numbers."""

_BLOCK_LOGITS, _BLOCK_ROWS = 1 << 25, 1 << 13


@dataclass(frozen=True, kw_only=True)
class TopTokens:
    """Of every neuron of a layer, the tokens it raises most.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> top = interp.value_vectors.project(model, layers=[2], top_k=3).layers[2]
        >>> bool((top.logits[:, 0] >= top.logits[:, 2]).all())
        True
    """

    ids: Int[Tensor, "neurons k"]
    """Ids of the tokens that are raised most."""
    logits: Float[Tensor, "neurons k"]
    """How much each is raised, largest first."""

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Value vectors of a model as tokens.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> found = interp.value_vectors.project(model, layers=[2], top_k=3)
        >>> sorted(found.layers), found.norm
        ([2], 'raw')
    """

    model: str
    """Name of the model whose neurons they are."""
    fingerprint: str
    """Of the weights: neurons of another model, or of the same after training, are others."""
    stack: str
    """Path of the blocks that they are in."""
    norm: str
    """What stands between neurons and vocabulary, by name."""
    vocabulary: Vocabulary
    """What the ids stand for."""
    layers: dict[int, TopTokens]
    """The top tokens of each layer's neurons, by layer."""

    def tokens(self, neuron: Neuron) -> tuple[Token, ...]:
        """The top tokens of one neuron.

        Raises:
            ValueError: a neuron that was not projected.
        """
        layer, index = neuron
        if layer not in self.layers or not 0 <= index < len(self.layers[layer].ids):
            raise ValueError(f"neuron {neuron} was not projected; layers {list(self.layers)} were")
        top = self.layers[layer]
        return _tokens(self.vocabulary, top.ids[index], top.logits[index])

    @property
    def chance(self) -> float | None:
        """Share of action tokens in the vocabulary: what random top tokens would have."""
        actions = self.vocabulary.actions
        return None if actions is None else len(actions.ids) / self.vocabulary.size

    @property
    def action_share(self) -> dict[int, Estimate]:
        """Layer -> share of action tokens among its neurons' top tokens, ± over neurons. Compare with ``chance``.

        Raises:
            ValueError: it was not said which tokens are actions.
        """
        actions = self.vocabulary.actions
        if actions is None:
            raise ValueError("which tokens are actions? Project again with actions=ActionTokens(vocab_size=…)")
        return {
            layer: metrics.mean(((top.ids >= actions.ids.start) & (top.ids < actions.ids.stop)).float().mean(1))
            for layer, top in self.layers.items()
        }


@torch.no_grad()
def project(
    model: Model,
    *,
    layers: Layers = "all",
    top_k: int = 10,
    norm: str = "raw",
    tokenizer: Any = None,
    actions: ActionTokens | None = None,
    vocab_size: int | None = None,
    stack: str | None = None,
) -> Projection:
    """The ``top_k`` tokens of every neuron.

    Args:
        model: a bridge from ``load_model``, or a torch model such as transformers' PaliGemma, PI0 or SmolVLM.
        layers: numbers, or ``all``, ``early`` (the first half), ``late``.
        norm: ``raw`` as in the paper, or ``gain``, with the final norm's weight folded in.
        tokenizer: to read tokens by; by default the model's own.
        actions: which ids stand for actions, such as ``ActionTokens(vocab_size=32000)`` for OpenVLA.
        vocab_size: ids from here on are padding; see ``interp.value_vectors.vocabulary.vocabulary_of`` for the default.
        stack: path of the blocks, where a model has several stacks.

    Raises:
        ValueError: no vocabulary head (an action expert); an option or a layer that cannot be.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> found = interp.value_vectors.project(model, layers=[2], top_k=3)
        >>> found.layers[2].ids.shape
        torch.Size([384, 3])
    """
    reader = _Reader(model, stack, norm, tokenizer, actions, vocab_size)
    if not 1 <= top_k <= reader.vocabulary.size:
        raise ValueError(f"top_k={top_k} is not from 1 to {reader.vocabulary.size}, the tokens there are")
    found = {}
    for layer in counted(checked_layers(reader.stack, layers), "project neurons", unit="layers"):
        tops = [logits.topk(top_k) for logits in reader.logits(layer)]
        found[layer] = TopTokens(
            ids=torch.cat([top.indices for top in tops]).cpu(), logits=torch.cat([top.values for top in tops]).cpu()
        )
    return Projection(
        model=reader.name,
        fingerprint=weights_fingerprint(model),
        stack=reader.stack.path,
        norm=norm,
        vocabulary=reader.vocabulary,
        layers=found,
    )


@torch.no_grad()
def find(
    model: Model,
    words: Sequence[str | int],
    *,
    antonyms: Sequence[str | int] = (),
    method: str = "neighbours",
    top: int = 20,
    layers: Layers = "all",
    norm: str = "raw",
    tokenizer: Any = None,
    actions: ActionTokens | None = None,
    vocab_size: int | None = None,
    stack: str | None = None,
) -> Cluster:
    """The ``top`` neurons for a concept, best first; equal scores in the order of layer and index.

    ``neighbours`` is the paper's: the mean input embedding of a neuron's five top tokens, weighted by the softmax of
    their logits, and its cosine with the mean embedding of ``words``. ``logit``: the neuron's logits, standardised over
    the vocabulary, averaged over ``words``. From either, the same for ``antonyms`` is subtracted where they are given:
    words and their opposites share neurons. Both say what neurons raise, not whether they steer.

    Args:
        words: of the concept, each one token, or token ids.
        antonyms: words that the neurons should not stand for.
        method: ``neighbours`` or ``logit``.
        top: how many neurons.
        layers: as for :func:`project`, as are the others.

    Raises:
        ValueError: a word that is not one token (with what it splits into); what :func:`project` refuses.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> cluster = interp.value_vectors.find(model, [" the"], method="logit", top=3)
        >>> len(cluster.members), cluster.words
        (3, (' the',))
    """
    if method not in ("neighbours", "logit"):
        raise ValueError(f"method={method!r} is not known; choose neighbours or logit")
    reader = _Reader(model, stack, norm, tokenizer, actions, vocab_size)
    numbers = checked_layers(reader.stack, layers)
    neurons = [(layer, index) for layer in numbers for index in range(reader.stack.widths[layer])]
    if not 1 <= top <= len(neurons):
        raise ValueError(f"top={top} is not from 1 to {len(neurons)}, the neurons of these layers")
    ids = reader.vocabulary.ids_of(words)
    opposite = reader.vocabulary.ids_of(antonyms) if antonyms else []
    score = reader.neighbours if method == "neighbours" else reader.standardised
    scores = torch.cat([score(n, ids, opposite) for n in counted(numbers, "score neurons", unit="layers")]).cpu()
    best = scores.argsort(descending=True, stable=True)[:top]
    chosen = [neurons[i] for i in best.tolist()]
    tokens = reader.tokens(chosen)
    return Cluster(
        model=reader.name,
        fingerprint=weights_fingerprint(model),
        stack=reader.stack.path,
        words=tuple(words),
        antonyms=tuple(antonyms),
        method=method,
        norm=norm,
        members=tuple(
            Member(layer=neuron[0], index=neuron[1], score=score, tokens=tokens[neuron])
            for neuron, score in zip(chosen, scores[best].tolist(), strict=True)
        ),
    )


def checked_layers(stack: Stack, layers: Layers) -> list[int]:
    """Numbers of layers, ascending.

    Raises:
        ValueError: none, or one that is not there.

    Example:
        >>> import interp
        >>> from interp.models.feed_forward import stack_of
        >>> from interp.value_vectors import checked_layers
        >>> stack = stack_of(interp.load_model("embedded"))
        >>> checked_layers(stack, "late"), checked_layers(stack, [3, 0])
        ([2, 3], [0, 3])
    """
    half = (stack.layers + 1) // 2
    named = {"all": range(stack.layers), "early": range(half), "late": range(half, stack.layers)}
    numbers = sorted(set(named.get(layers, ()) if isinstance(layers, str) else layers))
    if not numbers or not 0 <= numbers[0] <= numbers[-1] < stack.layers:
        raise ValueError(
            f"layers={layers!r}: choose all, early, late, or numbers from 0 to {stack.layers - 1}, the layers of"
            f" {stack.path}"
        )
    return numbers


_NEIGHBOUR_TOKENS, _SHOWN_TOKENS = 5, 10


class _Reader:
    """Value vectors of a model as logits, layer after layer."""

    @torch.no_grad()
    def __init__(
        self,
        model: Model,
        stack: str | None,
        norm: str,
        tokenizer: Any,
        actions: ActionTokens | None,
        vocab_size: int | None,
    ) -> None:
        if norm not in ("raw", "gain"):
            raise ValueError(f"norm={norm!r} is not known; choose raw (the paper's) or gain")
        self.name = source_of(model).name
        self.stack = stack_of(model, stack)
        self.vocabulary = vocabulary_of(model, self.stack, tokenizer=tokenizer, actions=actions, vocab_size=vocab_size)
        self._W_U = unembedding(self.stack)[: self.vocabulary.size].float()
        self._gain: Tensor | None = None
        if norm == "gain":
            if self.stack.final_norm is None:
                raise ValueError(f"there is no final norm beside {self.stack.path!r}; use norm='raw'")
            self._gain = final_gain(self.stack.final_norm)
            self._centred = isinstance(unwrapped(self.stack.final_norm), nn.LayerNorm)

    def logits(self, layer: int) -> Iterator[Float[Tensor, "neurons vocabulary"]]:
        """Of all neurons of a layer, in blocks."""
        vectors = self._normed(value_vectors(self.stack, layer))
        for block in vectors.split(max(1, _BLOCK_LOGITS // self.vocabulary.size)):
            yield block @ self._W_U.T

    def tokens(self, neurons: Sequence[Neuron]) -> dict[Neuron, tuple[Token, ...]]:
        """The top tokens of some neurons."""
        found = {}
        for layer in {layer for layer, _ in neurons}:
            members = [neuron for neuron in neurons if neuron[0] == layer]
            vectors = self._normed(value_vectors(self.stack, layer)[[index for _, index in members]])
            top = (vectors @ self._W_U.T).topk(min(_SHOWN_TOKENS, self.vocabulary.size))
            for neuron, ids, logits in zip(members, top.indices, top.values, strict=True):
                found[neuron] = _tokens(self.vocabulary, ids, logits)
        return found

    def neighbours(self, layer: int, ids: Sequence[int], opposite: Sequence[int]) -> Float[Tensor, " neurons"]:
        """Cosine of the top tokens' weighted embedding with the concept's."""
        assert self.stack.embedding is not None  # what has a vocabulary reads tokens
        table: Tensor = self.stack.embedding.get_parameter("weight")
        tops = [logits.topk(min(_NEIGHBOUR_TOKENS, self.vocabulary.size)) for logits in self.logits(layer)]
        means = torch.cat([torch.einsum("nk,nkd->nd", t.values.softmax(-1), table[t.indices].float()) for t in tops])

        def cosine(concept: Sequence[int]) -> Tensor:
            return functional.cosine_similarity(means, table[list(concept)].float().mean(0), dim=-1)

        return cosine(ids) - cosine(opposite) if opposite else cosine(ids)

    def standardised(self, layer: int, ids: Sequence[int], opposite: Sequence[int]) -> Float[Tensor, " neurons"]:
        """Mean z-scored logit over the concept's tokens.

        Mean and variance over the vocabulary follow from those of W_U's rows, so that no logits are needed.
        """
        vectors = self._normed(value_vectors(self.stack, layer))
        mean, covariance = self._moments
        spread = torch.einsum("nd,de,ne->n", vectors, covariance, vectors).clamp_min(1e-30).sqrt()
        base = self._W_U[list(opposite)].mean(0) if opposite else mean
        return vectors @ (self._W_U[list(ids)].mean(0) - base) / spread

    @cached_property
    def _moments(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "d_model d_model"]]:
        """Of the rows of W_U, added up in float64."""
        mean = self._W_U.double().mean(0)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
        for rows in self._W_U.split(_BLOCK_ROWS):
            covariance += (rows.double() - mean).T @ (rows.double() - mean)
        return mean.float(), (covariance / len(self._W_U)).float()

    def _normed(self, vectors: Float[Tensor, "neurons d_model"]) -> Float[Tensor, "neurons d_model"]:
        if self._gain is None:
            return vectors
        return (vectors - vectors.mean(-1, keepdim=True) if self._centred else vectors) * self._gain


def _tokens(vocabulary: Vocabulary, ids: Tensor, logits: Tensor) -> tuple[Token, ...]:
    return tuple(
        Token(id=token, text=vocabulary.text(token), logit=logit)
        for token, logit in zip(ids.tolist(), logits.tolist(), strict=True)
    )
