"""What an MLP's output loses when its smallest contributions are left out (CETT; Sparsing Law, arXiv 2411.02335).

``ErrorCurve`` finds the threshold that belongs to an error without holding any contribution: it names the few
thresholds whose error it wants next, and whoever can run the model measures them in one pass over the text.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_FAN = 8
"""Parts into which every look divides a bracket."""
_POINTS = _FAN**7
"""Thresholds that there are, from the largest contribution down to 2^-32 of it by equal factors of 1.00001."""
_PER_OCTAVE = _POINTS // 32
_CLOSE = 0.002
"""Between two thresholds whose errors differ by less, the threshold is interpolated."""


def contribution_norms(
    a: Float[Tensor, "*tokens d_mlp"], weights: Float[Tensor, "d_model d_mlp"]
) -> Float[Tensor, "*tokens d_mlp"]:
    """||n_i|| = |a_i| ||W_out[:, i]||, in float32 at least."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide).abs() * weights.to(wide).norm(dim=0)


def cett(
    a: Float[Tensor, "tokens d_mlp"], weights: Float[Tensor, "d_model d_mlp"], thresholds: Sequence[float]
) -> Float[Tensor, " thresholds"]:
    """Cumulative error of tail truncation at each threshold: the mean over tokens of
    ||sum of n_i with ||n_i|| <= threshold|| / ||sum of all n_i||.

    Biases are no neuron's output. Tokens on which no neuron writes anything have no error and are left out; 0 where
    that are all.
    """
    total, count = error_sums(a, weights, thresholds)
    return total / max(1, count)


def error_sums(
    a: Float[Tensor, "tokens d_mlp"], weights: Float[Tensor, "d_model d_mlp"], thresholds: Sequence[float]
) -> tuple[Float[Tensor, " thresholds"], int]:
    """The sum over tokens of the errors whose mean is CETT, and their number, so that batches can be added up."""
    wide = torch.promote_types(a.dtype, torch.float32)
    a, weights = a.to(wide), weights.to(wide)
    whole = (a @ weights.T).norm(dim=1)
    writes = whole > 0
    a, whole = a[writes], whole[writes]
    norms = contribution_norms(a, weights)
    sums = [(((a * (norms <= t)) @ weights.T).norm(dim=1) / whole).sum() for t in thresholds]
    return torch.stack(sums) if sums else a.new_zeros(0), len(a)


class ErrorCurve:
    """CETT of one layer as a function of the threshold, known at as many thresholds as levels were asked for.

    Every level is looked for in the same tree of thresholds, so that the answer does not depend on earlier questions.
    """

    def __init__(self, largest: float) -> None:
        self._largest = largest
        """Norm of the largest contribution: with all at most as large left out, nothing remains."""
        self._errors = {0: 0.0, _POINTS: 1.0}

    def wanted(self, level: float) -> dict[int, float]:
        """Number -> threshold of those whose error must be measured before the threshold of ``level`` is known."""
        low, high = self._bracket(level)
        missing = [point for point in self._inside(low, high) if point not in self._errors]
        return {point: self._value(point) for point in missing}

    def learn(self, errors: Mapping[int, float]) -> None:
        """CETT at thresholds by the numbers that ``wanted`` gave them."""
        self._errors.update(errors)

    def threshold(self, level: float) -> float:
        """The threshold with CETT ``level``, or the largest with less where a step leads past it, once nothing is
        wanted."""
        if level <= 0 or level >= 1:
            return self._largest if level >= 1 else 0.0
        low, high = self._bracket(level)
        if self._errors[high] - self._errors[low] > _CLOSE:  # one neuron's step: stay below it
            return self._value(low)
        share = (level - self._errors[low]) / (self._errors[high] - self._errors[low])
        below, above = self._value(low), self._value(high)
        return above * share if low == 0 else below * (above / below) ** share

    def _bracket(self, level: float) -> tuple[int, int]:
        """Neighbours in what is known of the tree: CETT of the first is at most ``level``, that of the second above."""
        low, high = 0, _POINTS
        while 0 < level < 1 and (inside := self._inside(low, high)) and all(p in self._errors for p in inside):
            points = [low, *inside, high]
            index = max(i for i, point in enumerate(points[:-1]) if self._errors[point] <= level)
            low, high = points[index], points[index + 1]
        return low, high

    def _inside(self, low: int, high: int) -> range:
        if high - low < _FAN or self._errors[high] - self._errors[low] <= _CLOSE or not self._largest:
            return range(0)
        step = (high - low) // _FAN
        return range(low + step, high, step)

    def _value(self, point: int) -> float:
        return self._largest * 2.0 ** ((point - _POINTS) / _PER_OCTAVE) if point else 0.0
