"""Clusters of neurons that stand for a concept, kept with what justifies them, and random sets to compare them with."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from interp.files.outside import read_json, reading, record
from interp.files.writing import write_json
from interp.models.bridge import Model
from interp.models.feed_forward import Neuron, checked_neurons, stack_of, value_vectors
from interp.models.fingerprint import weights_fingerprint

FORMAT = "deepfield.neuron-cluster.1"


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that a neuron raises.

    Example:
        >>> from interp.value_vectors import Token
        >>> Token(id=5, text=" the", logit=2.5).text
        ' the'
    """

    id: int
    """Id in the tokenizer's vocabulary."""
    text: str
    """What the id stands for, as text."""
    logit: float
    """How much the neuron raises it."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A neuron of a cluster.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> first = interp.value_vectors.find(model, [" the"], method="logit", top=3).members[0]
        >>> len(first.tokens) > 0
        True
    """

    layer: int
    """Block of the neuron, from 0."""
    index: int
    """Number of the neuron in its layer, from 0."""
    score: float
    """How well it fits the concept, by the method."""
    tokens: tuple[Token, ...]
    """Its top tokens, which justify it (or do not: look at them)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Neurons found for a concept, best first.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> cluster = interp.value_vectors.find(model, [" the"], method="logit", top=3)
        >>> cluster.members[0].score >= cluster.members[1].score
        True
    """

    model: str
    """Name of the model whose neurons they are."""
    fingerprint: str
    """Of the weights that they are neurons of."""
    stack: str
    """Path of the blocks that they are in."""
    words: tuple[str | int, ...]
    """Words of the concept, or their token ids."""
    antonyms: tuple[str | int, ...]
    """Words of its opposite, or their token ids."""
    method: str
    """How neurons were found, such as ``logit``."""
    norm: str
    """What stands between neurons and vocabulary, by name."""
    members: tuple[Member, ...]
    """The neurons, the best first."""

    @property
    def neurons(self) -> list[Neuron]:
        """As ``steer`` takes them."""
        return [(member.layer, member.index) for member in self.members]

    def check(self, model: Model) -> None:
        """Refuse a model whose weights are not those that the neurons were found in.

        Raises:
            ValueError: another fingerprint.
        """
        if (fingerprint := weights_fingerprint(model)) != self.fingerprint:
            raise ValueError(
                f"this cluster holds neurons of {self.model} with weights {self.fingerprint[:19]}…, and the model given"
                f" has {fingerprint[:19]}…: the same (layer, index) is another neuron there. Find the cluster again"
            )

    def save(self, path: str | Path) -> Path:
        """Write JSON, atomically; returns the absolute path."""
        target = Path(path).resolve()
        write_json(target, {"format": FORMAT, **asdict(self)})
        return target


def load_cluster(path: str | Path, model: Model) -> Cluster:
    """A cluster that :meth:`Cluster.save` wrote, for the model whose neurons it holds.

    Raises:
        ValueError: not such a file, or another model.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> cluster = interp.value_vectors.find(model, [" the"], method="logit", top=3)
        >>> path = cluster.save("the.json")
        >>> interp.value_vectors.load_cluster("the.json", model).members == cluster.members
        True
    """
    complaint = f"is not a cluster of neurons ({FORMAT})"
    content = read_json(Path(path), complaint)
    with reading(path, complaint):
        if content.pop("format") != FORMAT:
            raise ValueError("it is of another format")
        cluster = record(Cluster, content)
    with reading(path, "does not fit the model"):
        cluster.check(model)
        checked_neurons(stack_of(model, cluster.stack), cluster.neurons)
    return cluster


def matched_random_sets(
    model: Model,
    neurons: Iterable[Any],
    *,
    sets: int = 40,
    exclude: Iterable[Any] = (),
    pool: int = 50,
    seed: int = 0,
    stack: str | None = None,
) -> list[list[Neuron]]:
    """Random sets to compare a cluster with: for each neuron another of its layer, with a value vector about as long.

    Each is drawn from the ``pool`` neurons of the layer whose norms are nearest by ratio, none of them in ``neurons``
    or ``exclude``. Exclude everything that was a candidate for the concept or its opposite: neurons that do the same
    are no control. The unit of the comparison is the set, so with R sets of which # have an effect as large,
    p = (1 + #) / (R + 1).

    Raises:
        ValueError: too few neurons are left in a layer, or for so many sets that are different.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> sets = interp.value_vectors.matched_random_sets(model, [(2, 5), (2, 9)], sets=3)
        >>> [layer for layer, _ in sets[0]]
        [2, 2]
    """
    place = stack_of(model, stack)
    chosen = checked_neurons(place, neurons)
    barred = {*chosen, *checked_neurons(place, list(dict.fromkeys(exclude)))}
    if sets < 1 or pool < 1 or not chosen:
        raise ValueError(f"sets={sets} and pool={pool} must be 1 or more, and there must be neurons to match")
    pools: dict[Neuron, list[int]] = {}
    for layer in sorted({layer for layer, _ in chosen}):
        log_norms = value_vectors(place, layer).cpu().norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny).log()
        members = [index for of, index in chosen if of == layer]
        free = torch.tensor([i for i in range(place.widths[layer]) if (layer, i) not in barred], dtype=torch.long)
        if len(free) < len(members):
            raise ValueError(
                f"layer {layer} has {len(free)} neurons beside those excluded, too few to match {len(members)}; exclude"
                " fewer"
            )
        for index in members:
            order = (log_norms[free] - log_norms[index]).abs().argsort(stable=True)
            pools[layer, index] = free[order[: max(pool, len(members))]].tolist()
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[Neuron, ...], None] = {}
    for _ in range(100 * sets):
        found.setdefault(tuple(_draw(pools, generator)))
        if len(found) == sets:
            return [list(each) for each in found]
    raise ValueError(f"only {len(found)} different sets were found, not {sets}; widen pool={pool} or exclude fewer")


def _draw(pools: dict[Neuron, list[int]], generator: torch.Generator) -> list[Neuron]:
    drawn: dict[Neuron, None] = {}
    for (layer, _), pool in pools.items():
        left = [(layer, index) for index in pool if (layer, index) not in drawn]
        drawn[left[int(torch.randint(len(left), (), generator=generator))]] = None
    return sorted(drawn)
