"""Sequences of (item, label) pairs and a query, as the paper's code draws them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.in_context.setting import Setting
from interp.terminal.short_repr import short_repr

NOVEL_CLASSES = 128
"""New classes in every call, at least; as many more as all labels need to be equally frequent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """Where the known classes and the labels lie; they stay through a training.

    Example:
        >>> from interp.in_context import Setting, draw_classes
        >>> draw_classes(Setting(classes=4, labels=2, zipf=1.0)).frequencies
        tensor([0.4800, 0.2400, 0.1600, 0.1200], dtype=torch.float64)
    """

    setting: Setting
    """Distribution that they belong to."""
    items: Float[Tensor, "classes width"]
    """Mean of each class, Gaussian of variance 1 / width."""
    labels: Float[Tensor, "labels width"]
    """Vector of each label, Gaussian of variance 1 / width."""

    __repr__ = short_repr

    @property
    def frequencies(self) -> Float[Tensor, " classes"]:
        """Of the known classes: rank to the power of -zipf, rank 1 the first class."""
        weights = torch.arange(1, self.setting.classes + 1, dtype=torch.float64) ** -self.setting.zipf
        return weights / weights.sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Tokens for a network, and what stands behind them.

    Example:
        >>> from interp.in_context import Setting, draw_classes, sequences
        >>> drawn = sequences(draw_classes(Setting()), 100)
        >>> bool((drawn.context_labels == drawn.target[:, None]).any(1).all())  # bursty: the answer is there
        True
    """

    inputs: Float[Tensor, "sequences position input_width"]
    """Item, label, item, label, …, query: a one-hot position, then the vector; 2 pairs + 1 positions."""
    target: Int[Tensor, " sequences"]
    """The right label of the query. Where labels are swapped it is the swapped one, which the context tells."""
    from_weights: Int[Tensor, " sequences"]
    """Label that the query's class has in all other sequences, swapped or not; -1 for a new class."""
    context: Int[Tensor, "sequences pairs"]
    """Class of each item, among the known classes or, in a sequence of new ones, among these."""
    context_labels: Int[Tensor, "sequences pairs"]
    """Label that stands behind each item."""
    query: Int[Tensor, " sequences"]
    """Class of the last item, numbered as those of the context."""
    novel: Bool[Tensor, " sequences"]
    """Whether the sequence is of new classes."""

    __repr__ = short_repr

    @property
    def copy_chance(self) -> Float[Tensor, " sequences"]:
        """How often some label of the context, each with the same chance, is the right one."""
        there = torch.zeros(len(self.target), 1 + int(self.context_labels.max()), dtype=torch.bool)
        there.scatter_(1, self.context_labels, torch.ones_like(self.context_labels, dtype=torch.bool))
        right = (self.context_labels == self.target[:, None]).any(1)
        return right.float() / there.sum(1)


def generator_of(*numbers: int) -> torch.Generator:
    """A generator for a seed and, say, a step: others give other draws, whatever was drawn before."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def draw_classes(setting: Setting, *, seed: int = 0) -> Classes:
    """Means of the known classes, and the labels' vectors.

    Example:
        >>> from interp.in_context import Setting, draw_classes
        >>> draw_classes(Setting(classes=32, labels=4)).items.shape
        torch.Size([32, 16])
    """
    generator = generator_of(seed)

    def draw(count: int) -> Tensor:
        return torch.randn(count, setting.width, generator=generator) / setting.width**0.5

    return Classes(setting=setting, items=draw(setting.classes), labels=draw(setting.labels))


def sequences(
    classes: Classes,
    n: int,
    *,
    seed: int | torch.Generator = 0,
    bursty: float | None = None,
    novel: float | None = None,
    swapped: bool = False,
    absent: bool = False,
) -> Sequences:
    """Draw sequences: of the setting as it is, or of what one evaluation asks for.

    A bursty context has pairs / burstiness classes, drawn with their frequencies (one may be drawn twice), each
    ``burstiness`` times, in random order; the query's class is that of one of its items. Otherwise all classes are
    drawn at random, so that the query's stands in the context in 1 - (1 - 1/K)^N of equally frequent ones. Sequences of
    new classes are bursty, with 128 equally frequent classes of their own in every call. An item is
    (mean + noise ξ / √width) / √(1 + noise²). A context begins at a random position of those with room for it.

    Args:
        classes: from :func:`draw_classes`.
        n: sequences.
        seed: or a generator that goes on from where it is.
        bursty: share of bursty contexts, in place of the setting's.
        novel: share of sequences of new classes, in place of the setting's.
        swapped: known classes have the next label in the context, (c + 1) mod L, and that is the target.
        absent: the query's class stands nowhere in a context that is not bursty.

    Raises:
        ValueError: shares that are none; ``absent`` where contexts are bursty.

    Example:
        >>> from interp.in_context import Setting, draw_classes, sequences
        >>> drawn = sequences(draw_classes(Setting()), 2, seed=1)
        >>> drawn.inputs.shape
        torch.Size([2, 9, 25])
    """
    setting = classes.setting
    bursty, novel = (setting.bursty if bursty is None else bursty), (setting.novel if novel is None else novel)
    if n < 1 or not (0 <= bursty <= 1 and 0 <= novel <= 1):
        raise ValueError(f"n={n}, bursty={bursty}, novel={novel}: give one sequence or more, and shares from 0 to 1")
    if absent and (bursty or novel):
        raise ValueError("absent=True is for contexts that are not bursty: pass bursty=0 and novel=0")
    generator = seed if isinstance(seed, torch.Generator) else generator_of(seed)
    is_novel = torch.rand(n, generator=generator) < novel
    is_bursty = torch.rand(n, generator=generator) < bursty
    known = classes.frequencies
    context, query = _bursty(known, setting, n, generator)
    loose, other = _at_random(known, setting, n, generator, absent)
    context = torch.where(is_bursty[:, None], context, loose)
    query = torch.where(is_bursty, query, other)
    count = setting.labels * -(-NOVEL_CLASSES // setting.labels)
    fresh = torch.randn(count, setting.width, generator=generator) / setting.width**0.5
    new_context, new_query = _bursty(torch.full((count,), 1 / count), setting, n, generator)
    context = torch.where(is_novel[:, None], new_context, context)
    query = torch.where(is_novel, new_query, query)
    means = torch.cat([classes.items, fresh])
    every = torch.cat([context, query[:, None]], 1)
    items = means[every + setting.classes * is_novel[:, None]]
    noise = torch.randn(items.shape, generator=generator) / setting.width**0.5
    items = (items + setting.noise * noise) / (1 + setting.noise**2) ** 0.5
    moved = ~is_novel & swapped
    context_labels = (context + moved[:, None]) % setting.labels
    return Sequences(
        inputs=_tokens(items, classes.labels[context_labels], setting, generator),
        target=(query + moved) % setting.labels,
        from_weights=torch.where(is_novel, -1, query % setting.labels),
        context=context,
        context_labels=context_labels,
        query=query,
        novel=is_novel,
    )


def _bursty(frequencies: Tensor, setting: Setting, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Contexts [n, pairs] in which every class that was drawn stands as often as ``burstiness``, and queries [n]."""
    drawn = torch.multinomial(
        frequencies.expand(n, -1), setting.pairs // setting.burstiness, replacement=True, generator=generator
    )
    order = torch.rand(n, setting.pairs, generator=generator).argsort(1)
    query = torch.randint(drawn.shape[1], (n, 1), generator=generator)
    return drawn.repeat(1, setting.burstiness).gather(1, order), drawn.gather(1, query)[:, 0]


def _at_random(
    frequencies: Tensor, setting: Setting, n: int, generator: torch.Generator, absent: bool
) -> tuple[Tensor, Tensor]:
    query = torch.multinomial(frequencies, n, replacement=True, generator=generator)
    weights = frequencies.repeat(n, 1)
    if absent:
        weights[torch.arange(n), query] = 0
        if not weights.sum(1).all():
            raise ValueError("one class has all the frequency, so that no context can lack it: give a smaller zipf")
    return torch.multinomial(weights, setting.pairs, replacement=True, generator=generator), query


def _tokens(items: Tensor, labels: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
    """Items and labels in turn, each behind its position."""
    n, length = len(items), 2 * setting.pairs + 1
    inputs = torch.zeros(n, length, setting.input_width)
    inputs[:, 0::2, setting.positions :] = items
    inputs[:, 1::2, setting.positions :] = labels
    first = torch.randint(setting.positions - length + 1, (n, 1), generator=generator)
    inputs.scatter_(2, (first + torch.arange(length))[:, :, None], 1.0)
    return inputs
