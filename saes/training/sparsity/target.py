"""The weight of the sparsity losses that brings the number of active latents to what was asked for (``--l0``).

Proportional and integral control of the weight's logarithm, by the logarithm of L0 over its target. The proportional
part acts at once and keeps latents from overshooting; the integral, a factor that is part of the training state, finds
the weight at which the target is kept. Training starts at the target (``saes.training.sparsity.start``), so nothing
winds the integral up; an error counts up to a factor of 20 all the same.

JumpReLU's reconstruction may alone leave fewer latents active than are wanted. What counts latents can be turned round
and reward them; an L1 loss cannot, since it would let them grow without end.
"""

import math
from collections.abc import Collection

PROPORTIONAL = 4.0
"""Power of L0 over its target in the weight of a step."""
INTEGRAL, SLOWEST, FASTEST = 20.0, 0.005, 0.05
"""Power of L0 over its target by which the factor changes in all steps together, and its bounds in a single step: a
factor that moves faster than weights can follow makes L0 swing."""
LIMIT = 3.0
"""Largest logarithm of L0 over its target that counts."""
TURNED = 0.2
"""A weight that may be turned round is exp(v) - ``TURNED`` exp(-v): positive as long as v is above -0.8."""
MOST_TURNED = -5.0
"""Where that ends."""
LEAST_TURNED, MOST = 0.05, 1e4
"""Bounds of the factor; without a term that may be turned round the lower is one over the upper."""
COUNTING = ("l0", "tanh")
"""Terms that count latents."""


def weight_factor(factor: float, l0: float, target: float, *, term: str) -> float:
    """What the weight of a sparsity ``term`` is multiplied with in a step, from the state's ``factor``."""
    grown = factor * math.exp(PROPORTIONAL * _error(l0, target))
    return max(MOST_TURNED, grown - TURNED / grown) if term in COUNTING else grown


def next_factor(factor: float, l0: float, target: float, *, steps: int, terms: Collection[str]) -> float:
    """The state's factor after a step of a run of ``steps`` with these sparsity terms. It stops where a weight that is
    turned round is about at its end: what went on beyond would have to come back first."""
    rate = max(SLOWEST, min(FASTEST, INTEGRAL / steps))
    least = LEAST_TURNED if set(terms) & set(COUNTING) else 1 / MOST
    return max(least, min(MOST, factor * math.exp(rate * _error(l0, target))))


def _error(l0: float, target: float) -> float:
    return max(-LIMIT, min(LIMIT, math.log(max(l0, 1e-3) / target)))
