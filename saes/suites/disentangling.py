"""RAVEL: whether a few latents hold one attribute of an entity and leave its others alone.

An entity (a city) has several attributes (country, language). The latents that tell one attribute are taken from the
run of another entity, the *source*, and put into the *base*'s, at the entity's last token. *Cause*: how often the model
then gives the source's attribute; *isolation*: how often it still gives the base's other attributes; their mean is the
*disentangle* score (Huang et al. 2024, arXiv 2402.17700). Latents are ranked by a probe of means on training entities,
their number is chosen on pairs of those, and all figures are of pairs of entities that neither has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.metrics import Estimate
from interp.terminal.progress import counted
from saes.sae import SAE
from saes.suites.combining import Part, checked_counts, combined, require_autoencoder
from saes.suites.texts.examples import Examples, examples_from_rows

NS = (1, 5, 20, 100)
"""How many latents are tried."""
PAIRS = 100
"""Most pairs of a base and a source, for each attribute that is asked for; half as many choose how many latents."""
LEAST_RECALL = 0.7
"""Mean over the answers to an attribute of the share of its entities that the model answers rightly."""
FEWEST = 4
"""Entities with known answers that each side of the split needs."""


@runtime_checkable
class World(Protocol):
    """Entities, their attributes, and somebody who answers."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, at least two."""
        ...

    @property
    def truth(self) -> Int[np.ndarray, "attributes entities"]:
        """Number of the right answer, for each attribute of each entity."""
        ...

    def activations(self, attribute: int) -> Float[Tensor, "entities d"]:
        """Of each entity, in the question for that attribute."""
        ...

    def answers(
        self, attribute: int, entities: Int[np.ndarray, " n"], x: Float[Tensor, "n d"] | None
    ) -> Int[np.ndarray, " n"]:
        """What is answered to the question for that attribute of each of these entities, with ``x`` in place of the
        activations, or with those as they are."""
        ...


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """Scores of one kind of interchange; ± over base entities."""

    cause: Estimate
    """Share of pairs in which the answer becomes the source's."""
    isolation: Estimate
    """Share of questions for other attributes that are answered as before, mean over these attributes."""
    disentangle: Estimate
    """Mean of cause and isolation: 0.5 for an interchange of nothing, and of everything."""


@dataclass(frozen=True, kw_only=True)
class AttributeScores:
    """One attribute."""

    attribute: str
    """Name of the attribute that is to be changed."""
    recall: float
    """Mean over its answers of the share of entities that are answered rightly, nothing being changed."""
    entities: int
    """Number of entities of which the model knows every attribute."""
    latents: tuple[int, ...]
    """Numbers of the latents that are exchanged, the most telling first."""
    scores: Swapped
    """With these latents exchanged."""
    whole: Swapped
    """With the whole activation exchanged: the most that any latents can cause, and the least that they can isolate."""


@dataclass(frozen=True, kw_only=True)
class Ravel:
    """RAVEL on one set of entities."""

    name: str
    """Name of the entities."""
    attributes: tuple[AttributeScores, ...]
    """Scores of each attribute."""
    scores: Swapped
    """Means of the scores over attributes."""
    whole: Swapped
    """The same of whole activations."""


@torch.no_grad()
def ravel(
    sae: SAE, world: World, *, ns: Sequence[int] = NS, share_held_out: float = 0.5, pairs: int = PAIRS, seed: int = 0
) -> Ravel:
    """RAVEL scores of every attribute of a world.

    Only entities all of whose attributes are answered rightly take part. The SAE's error stays where it is: exchanged
    is what the latents write, x_base + sum over latents of (f_source - f_base) times their decoder rows.

    Raises ValueError for transcoders and ``layer_norm``, and where an attribute is not known: fewer than
    :data:`LEAST_RECALL` of its entities are answered rightly, or too few entities are left.

    Example:
        >>> import interp, saes, torch
        >>> from saes.suites import AskedModel, cities, ravel
        >>> model, site = interp.load_model("embedded"), interp.Site.parse("blocks.2.hook_resid_post")
        >>> sae = saes.SAE(96, 192, saes.TopK(8)).initialise(seed=0, mean=torch.zeros(96))
        >>> try:
        ...     ravel(sae, AskedModel(model=model, site=site, entities=cities(), bos=True))
        ... except ValueError as error:  # it has read novels alone
        ...     print(str(error)[:60])
        cities: the model does not know the attribute 'country': it
    """
    require_autoencoder(sae, "RAVEL")
    if len(world.attributes) < 2:
        raise ValueError(f"{world.name} has {len(world.attributes)} attribute: to isolate there must be two or more")
    ns = checked_counts([min(n, sae.d_sae) for n in ns])
    recalls, known = _known(world)
    generator = np.random.default_rng(seed)
    order = generator.permutation(known)
    cut = round(share_held_out * len(known))
    sides = (np.sort(order[cut:]), np.sort(order[:cut]))
    if min(map(len, sides)) < FEWEST:
        raise ValueError(
            f"{world.name}: the model knows every attribute of {len(known)} of {world.truth.shape[1]} entities, and"
            f" {2 * FEWEST} are needed: give more entities, or a model that knows them"
        )
    seen = [examples_from_rows(sae, world.activations(number)) for number in range(len(world.attributes))]
    whole_parts: list[_Parts] = []
    best_parts: list[_Parts] = []
    found = []
    for number, name in counted(list(enumerate(world.attributes)), f"RAVEL, {world.name}", unit="attributes"):
        drawn = [_pairs(world, side, most, generator) for side, most in zip(sides, (pairs // 2, pairs), strict=True)]
        ranked = _telling(seen[number], world.truth[number], sides[0], sae)
        tried = [(_scored(sae, world, seen, number, drawn[0], ranked[:n]).disentangle.value, -n) for n in ns]
        latents = ranked[: -max(tried)[1]]
        parts, whole = (_run(sae, world, seen, number, drawn[1], chosen) for chosen in (latents, None))
        best_parts.append(parts)
        whole_parts.append(whole)
        found.append(
            AttributeScores(
                attribute=name,
                recall=recalls[number],
                entities=len(known),
                latents=tuple(latents.tolist()),
                scores=_swapped([parts]),
                whole=_swapped([whole]),
            )
        )
    return Ravel(name=world.name, attributes=tuple(found), scores=_swapped(best_parts), whole=_swapped(whole_parts))


def _known(world: World) -> tuple[list[float], np.ndarray]:
    """Mean recall of each attribute, and the entities whose every attribute is answered rightly."""
    everybody = np.arange(world.truth.shape[1])
    right = np.ones(len(everybody), dtype=bool)
    recalls = []
    for number, name in enumerate(world.attributes):
        truth = world.truth[number]
        its = world.answers(number, everybody, None) == truth
        recalls.append(float(np.mean([its[truth == answer].mean() for answer in np.unique(truth)])))
        if len(np.unique(truth)) < 2 or recalls[-1] < LEAST_RECALL:
            raise ValueError(
                f"{world.name}: the model does not know the attribute {name!r}: it answers {recalls[-1]:.0%} of the"
                f" entities rightly (mean over answers), and {LEAST_RECALL:.0%} are needed for an interchange to mean"
                " anything. Take other entities, a larger model, or other questions"
            )
        right &= its
    return recalls, np.flatnonzero(right)


_Pairs = list[tuple[int, np.ndarray]]
"""An attribute that is asked for, and pairs [n, 2] of base and source with different answers to it."""
_Parts = tuple[list[Part], list[Part]]
"""Hits by base entity: of cause, and of isolation."""


def _pairs(world: World, side: np.ndarray, most: int, generator: np.random.Generator) -> _Pairs:
    """For every attribute, pairs among ``side`` that differ in it."""
    everything = np.array([(base, source) for base in side for source in side if base != source])
    drawn = []
    for asked, name in enumerate(world.attributes):
        truth = world.truth[asked]
        differ = everything[truth[everything[:, 0]] != truth[everything[:, 1]]]
        if not len(differ):
            raise ValueError(
                f"{world.name}: the entities of which the model knows everything all have the same {name}; give more"
            )
        drawn.append((asked, generator.permutation(differ)[:most]))
    return drawn


def _telling(examples: Examples, truth: np.ndarray, train: np.ndarray, sae: SAE) -> np.ndarray:
    """Latents by how far apart their means for the answers are, in what they write, the farthest first."""
    some, its = examples[train], truth[train]
    overall, total = some.mean(), np.zeros(sae.d_sae)
    for answer in np.unique(its):
        total += (its == answer).sum() * (some[its == answer].mean() - overall) ** 2
    total *= sae.W_dec.detach().double().square().sum(1).cpu().numpy()
    order = np.argsort(-total, kind="stable")
    return order[total[order] > 0]


def _run(
    sae: SAE, world: World, seen: list[Examples], target: int, drawn: _Pairs, latents: np.ndarray | None
) -> _Parts:
    """Hits with these latents exchanged, or whole activations."""
    cause: list[Part] = []
    isolation: list[Part] = []
    rows = None if latents is None else sae.W_dec.detach().double().cpu().numpy()[latents]
    for asked, pairs in drawn:
        base, source = pairs[:, 0], pairs[:, 1]
        x = seen[asked].x.double().numpy()
        if latents is None:
            new = x[source]
        else:
            values = seen[asked].columns(latents)
            new = x[base] + (values[source] - values[base]) @ rows
        given = world.answers(asked, base, torch.from_numpy(new).float())
        wanted = world.truth[asked][source if asked == target else base]
        hits = (given == wanted).astype(float)
        if asked == target:
            cause.append(Part(weight=1.0, values=hits, groups=base))
        else:
            isolation.append(Part(weight=1 / (len(drawn) - 1), values=hits, groups=base))
    return cause, isolation


def _swapped(parts: Sequence[_Parts]) -> Swapped:
    """Means over attributes."""

    def mean(some: Sequence[Part], factor: float) -> Estimate:
        return combined([replace(part, weight=factor * part.weight / len(parts)) for part in some])

    cause = [part for its, _ in parts for part in its]
    isolation = [part for _, its in parts for part in its]
    return Swapped(cause=mean(cause, 1.0), isolation=mean(isolation, 1.0), disentangle=mean([*cause, *isolation], 0.5))


def _scored(sae: SAE, world: World, seen: list[Examples], target: int, drawn: _Pairs, latents: np.ndarray) -> Swapped:
    return _swapped([_run(sae, world, seen, target, drawn, latents)])
