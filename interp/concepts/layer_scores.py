"""A concept at every layer against random sets: accuracy, TCAV, significance, and how much it varies over layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor
from torch.nn import functional

from interp import metrics
from interp.concepts.vectors import ConceptVector, cav, tcav
from interp.metrics import Estimate
from interp.terminal.progress import counted

_LEAST_SETS = 20


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """A concept at one layer.

    Example:
        >>> import torch
        >>> from interp.concepts import across_layers
        >>> noise = torch.randn(90, 48, generator=torch.Generator().manual_seed(0))
        >>> direction = torch.eye(48)[0]
        >>> scores = across_layers({5: noise[60:] + 3 * direction}, {5: noise[:60]}, {5: direction.expand(10, 48)})
        >>> score = scores.layers[0]
        >>> score.layer, score.tcav.value, score.p_value < 0.01
        (5, 1.0, True)
        >>> score.sensitivity.value > 0.4  # mean cosine
        True
    """

    layer: int
    """Block after which the concept is measured, from 0."""
    concept: ConceptVector
    """Against all of the pool."""
    tcav: Estimate
    """Mean share over the random sets, ± over them."""
    random_tcav: Estimate
    """The same of random sets against each other."""
    sensitivity: Estimate
    """Mean cosine of the target's gradient with the vector, over random sets."""
    p_value: float
    """Two-sided, multiplied by the number of layers (Bonferroni), at most 1."""


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """A concept at all layers.

    Example:
        >>> import torch
        >>> from interp import Estimate
        >>> from interp.concepts import ConceptVector, LayerScore, LayerScores
        >>> concept = ConceptVector(vector=torch.eye(4)[0], accuracy=Estimate(0.9, 0.03, 80), strength=1.0)
        >>> what = {"concept": concept, "random_tcav": Estimate(0.5, 0.1, 20), "sensitivity": Estimate(0.3, 0.1, 20)}
        >>> shares = [Estimate(0.5, 0.1, 20), Estimate(1.0, 0.0, 20)]
        >>> layers = [LayerScore(layer=i, tcav=share, p_value=0.01, **what) for i, share in enumerate(shares)]
        >>> scores = LayerScores(layers=tuple(layers), sets=20)
        >>> round(scores.deviation, 3), round(scores.range_ratio, 3)  # how much TCAV varies over layers
        (0.354, 0.667)
    """

    layers: tuple[LayerScore, ...]
    """The concept at each layer that was measured."""
    sets: int
    """Random sets at each layer."""

    @property
    def deviation(self) -> float:
        """Standard deviation of TCAV over layers; NaN of one."""
        scores = [each.tcav.value for each in self.layers]
        return float(torch.tensor(scores).std()) if len(scores) > 1 else math.nan

    @property
    def variation(self) -> float:
        """Standard deviation over layers / mean."""
        return self.deviation / self._mean

    @property
    def range_ratio(self) -> float:
        """(Largest - smallest) / mean over layers."""
        scores = [each.tcav.value for each in self.layers]
        return (max(scores) - min(scores)) / self._mean

    @property
    def _mean(self) -> float:
        return sum(each.tcav.value for each in self.layers) / len(self.layers) or math.nan


def across_layers(
    positive: Mapping[int, Float[Tensor, "n d"]],
    pool: Mapping[int, Float[Tensor, "m d"]],
    gradients: Mapping[int, Float[Tensor, "k d"]],
    *,
    sets: int = 20,
    seed: int = 0,
) -> LayerScores:
    """Concept vectors against ``sets`` random halves of a pool, and those of halves of the pool against each other.

    The share of positive directional derivatives is 0 or 1 wherever all gradients agree, for random vectors too, so
    that it cannot be told from chance there. Tested is therefore the mean cosine of gradient and vector: the concept's,
    as one draw, against those of random sets of the same size (Student's t of a prediction, ``sets`` - 1 degrees of
    freedom). A t test over many vectors of one concept set, as published code does, finds random concepts significant
    much too often, since those vectors share that set.

    Args:
        positive: layer -> activations of the concept.
        pool: layer -> activations of anything else, at least ten and best twice as many as of the concept.
        gradients: layer -> gradients of the target's logit on inputs of its class (:func:`target_gradients`).
        sets: random sets, 20 or more: with fewer, p-values come by luck.
        seed: of the draws.

    Raises:
        ValueError: too few sets or activations; layers that differ; widths that differ.

    Example:
        >>> import torch
        >>> from interp.concepts import across_layers
        >>> noise = torch.randn(90, 48, generator=torch.Generator().manual_seed(0))
        >>> pool, others, direction = noise[:60], noise[60:], torch.eye(48)[0]
        >>> gradients = direction.expand(10, 48)  # the target's logit grows along the first dimension
        >>> positive = {0: others, 1: others + 3 * direction}  # where the concept lies after block 1, not before
        >>> scores = across_layers(positive, dict.fromkeys(positive, pool), dict.fromkeys(positive, gradients))
        >>> [each.p_value < 0.05 for each in scores.layers]
        [False, True]
    """
    check_sets(sets)
    if not positive or positive.keys() != pool.keys() or positive.keys() != gradients.keys():
        raise ValueError(
            f"layers {sorted(positive)}, {sorted(pool)} and {sorted(gradients)} of the concept, the pool and the"
            " gradients: give the same to all, and one or more"
        )
    generator = torch.Generator().manual_seed(seed)
    found = []
    for layer in counted(sorted(positive), "fit concept vectors", unit="layers"):
        concept = cav(positive[layer], pool[layer])
        others, own = pool[layer], positive[layer]
        size = min(len(own), len(others) // 2)
        real, chance = [], []
        for _ in range(sets):
            order, mine = (
                torch.randperm(len(others), generator=generator),
                torch.randperm(len(own), generator=generator),
            )
            first, second = others[order[:size]], others[order[size : 2 * size]]
            real.append(cav(own[mine[:size]], first, strength=concept.strength).vector)
            chance.append(cav(second, first, strength=concept.strength).vector)
        scores, random = (
            torch.tensor([tcav(gradients[layer], v).value for v in vectors]) for vectors in (real, chance)
        )
        cosines, expected = (_cosines(gradients[layer], torch.stack(vectors)) for vectors in (real, chance))
        spread = float(expected.std()) * math.sqrt(1 + 1 / sets)
        statistic = float(cosines.mean() - expected.mean()) / spread if spread else math.inf
        found.append(
            LayerScore(
                layer=layer,
                concept=concept,
                tcav=metrics.mean(scores),
                random_tcav=metrics.mean(random),
                sensitivity=metrics.mean(cosines),
                p_value=min(1.0, float(2 * student.sf(abs(statistic), sets - 1)) * len(positive)),
            )
        )
    return LayerScores(layers=tuple(found), sets=sets)


def _cosines(gradients: Float[Tensor, "k d"], vectors: Float[Tensor, "sets d"]) -> Float[Tensor, " sets"]:
    return (functional.normalize(gradients.float().cpu(), dim=-1) @ vectors.T).mean(0)


def check_sets(sets: int) -> None:
    """Refuse too few random sets.

    Raises:
        ValueError: fewer than ``_LEAST_SETS``.
    """
    if sets < _LEAST_SETS:
        raise ValueError(f"sets={sets}; give {_LEAST_SETS} or more, or p-values come by luck")
