"""Does a cluster of neurons steer? Against nothing, random sets, the word in the prompt; over strengths and scopes.

Rollouts hardly differ between episodes, so an interval over episodes says little: what is random is the *set of
neurons*. A cluster steers only as far as it does more than sets of as many neurons of the same layers, with value
vectors about as long, none of them a candidate for the concept or its opposite.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import binomtest

from interp import metrics
from interp.metrics import Estimate
from interp.models.feed_forward import Neuron
from interp.terminal.progress import counted
from interp.value_vectors.clusters import Cluster, matched_random_sets
from interp.value_vectors.projection import Layers, find
from interp.vla.policy.policy import VLAPolicy
from interp.vla.policy.tokenizer import ACTIONS
from interp.vla.policy.words import ANTONYMS, CONCEPTS
from interp.vla.study.bench import Bench, Condition, Measured
from interp.vla.study.rollouts import STEPS

STEERS_FROM = 0.5
"""mm a step: a smaller effect is called none, and a random band that leaves ± this is called damage."""
KEEPS_DIRECTION = 0.8
"""Least cosine with the unsteered direction at which a change of speed is only that."""
LEVEL = 0.05
"""Of p; the random band holds the middle 95 % of the sets."""
FEWEST_SETS = round(1 / LEVEL) - 1
"""With which p can be ``LEVEL``."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a concept should do to the hand."""

    metric: str
    """Which measure of the hand's movement it is."""
    sign: int
    """1 where the concept should raise it, -1 where it should lower it."""


TARGETS = {
    "fast": Target(metric="speed", sign=1),
    "slow": Target(metric="speed", sign=-1),
    "up": Target(metric="up", sign=1),
    "down": Target(metric="up", sign=-1),
    "right": Target(metric="right", sign=1),
    "left": Target(metric="right", sign=-1),
    "forward": Target(metric="forward", sign=1),
    "back": Target(metric="forward", sign=-1),
}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A cluster, that of the opposite, and random sets to compare with."""

    concept: str
    """Name of the concept, such as fast."""
    cluster: Cluster
    """The neurons of the concept."""
    opposite: Cluster
    """The neurons of its opposite."""
    random: tuple[tuple[Neuron, ...], ...]
    """Sets of as many random neurons of the same layers."""


@dataclass(frozen=True, kw_only=True)
class Dose:
    """Effects at one strength on the target's metric, mm a step, each against the same episodes unsteered."""

    value: float
    """That the activations are set to."""
    effect: Estimate
    """± over episodes, which is not the uncertainty that counts."""
    opposite: Estimate
    """Effect of the opposite's neurons; ± over episodes."""
    random: tuple[float, ...]
    """Of every random set."""
    band: tuple[float, float]
    """Of the middle 95 % of them."""
    p: float
    """(1 + sets that do at least as much in the wanted direction) / (1 + sets)."""
    damaged: bool
    """The band leaves ± ``STEERS_FROM``: at this strength any neurons break the policy."""
    heading: float
    """Cosine of where the hand went with where it goes unsteered; what changes speed alone leaves it at 1."""
    words: float
    """Share of steps in which the steered policy would rather have said a word than acted."""
    verdict: str
    """What the figures say, in words."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Successes among episodes, with Wilson's 95 % interval."""

    successes: int
    """Episodes that reached the goal."""
    n: int
    """How many episodes there were."""
    low: float
    """Lower end of the interval, 0 to 1."""
    high: float
    """Upper end of the interval, 0 to 1."""


def contest(
    policy: VLAPolicy,
    concept: str,
    *,
    top: int = 20,
    method: str = "logit",
    layers: Layers = "all",
    sets: int = 40,
    seed: int = 0,
) -> Contest:
    """Find the neurons of a concept and of its opposite, and matched sets that hold no candidate for either.

    Candidates are the ``2 * top`` best of both.

    Raises:
        ValueError: a concept that the policy was not trained with, or that has no opposite.
    """
    if concept not in TARGETS:
        raise ValueError(f"{concept!r} is no concept of this policy; choose one of {', '.join(TARGETS)}")
    clusters, candidates = [], []
    for each in (concept, ANTONYMS[concept]):
        found = find(
            policy,
            CONCEPTS[each],
            antonyms=CONCEPTS[ANTONYMS[each]],
            method=method,
            top=2 * top,
            layers=layers,
            actions=ACTIONS,
        )
        candidates += found.neurons
        clusters.append(replace(found, members=found.members[:top]))
    random = matched_random_sets(policy, clusters[0].neurons, sets=sets, exclude=candidates, seed=seed)
    return Contest(
        concept=concept, cluster=clusters[0], opposite=clusters[1], random=tuple(tuple(each) for each in random)
    )


def dose(bench: Bench, between: Contest, instruction: str, value: float, *, steps: int = STEPS) -> Dose:
    """One strength: the cluster, its opposite and every random set."""
    target = TARGETS[between.concept]

    def measure(neurons: Sequence[Neuron]) -> Measured:
        return bench.measure(
            Condition(instruction=instruction, neurons=tuple(neurons), value=float(value), steps=steps)
        )

    baseline = bench.measure(Condition(instruction=instruction, steps=steps))
    steered = measure(between.cluster.neurons)
    effect = difference(steered, baseline, target.metric)
    sets = counted(between.random, f"{instruction}, strength {value:g}", unit="random sets")
    random = tuple(difference(measure(each), baseline, target.metric).value for each in sets)
    low, high = np.quantile(random, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    at_least = sum(target.sign * each >= target.sign * effect.value for each in random)
    p = (1 + at_least) / (1 + len(random))
    damaged = max(-low, high) > STEERS_FROM
    return Dose(
        value=value,
        effect=effect,
        opposite=difference(measure(between.opposite.neurons), baseline, target.metric),
        random=random,
        band=(low, high),
        p=p,
        damaged=damaged,
        heading=(heading := _heading(steered, baseline)),
        words=float(np.mean(steered.words)),
        verdict=verdict(
            target.sign * effect.value,
            p=p,
            sets=len(random),
            damaged=damaged,
            astray=target.metric == "speed" and heading < KEEPS_DIRECTION,
        ),
    )


def verdict(wanted: float, *, p: float, sets: int, damaged: bool, astray: bool) -> str:
    """In words; ``wanted`` is the effect in the wanted direction, mm a step, ``astray`` whether the hand turned.

    With few random sets no effect is large enough: p is at least 1 / (1 + sets).
    """
    if wanted <= -STEERS_FROM:
        return "does not steer: the effect has the wrong sign"
    if wanted < STEERS_FROM:
        return f"does not steer: less than {STEERS_FROM} mm a step"
    if sets < FEWEST_SETS:
        return f"cannot tell: {sets} random sets, and it takes {FEWEST_SETS} for p to reach {LEVEL}"
    if p > LEVEL:
        return "does not steer: random sets do as much"
    faults = ["the hand turns"] * astray + ["random sets do damage"] * damaged
    return f"steers, but {' and '.join(faults)}" if faults else "steers"


def _heading(steered: Measured, baseline: Measured) -> float:
    """Mean over episodes; 0 where the hand did not move."""
    moved, usual = (np.stack([each.right, each.forward, each.up], axis=1) for each in (steered, baseline))
    lengths = np.linalg.norm(moved, axis=1) * np.linalg.norm(usual, axis=1)
    return float(np.mean((moved * usual).sum(1) / np.maximum(lengths, 1e-12)))


def difference(steered: Measured, baseline: Measured, metric: str) -> Estimate:
    """Mean over pairs of episodes."""
    pairs = np.subtract(getattr(steered, metric), getattr(baseline, metric))
    return metrics.mean(torch.tensor(pairs))


def share(measured: Measured) -> Share:
    """Of episodes that came within 5 cm of the goal."""
    test = binomtest(sum(measured.success), len(measured.success))
    interval = test.proportion_ci(method="wilson")
    return Share(successes=test.k, n=test.n, low=float(interval.low), high=float(interval.high))
