"""Exact selection over many values without sorting them."""

from jaxtyping import Float
from torch import Tensor

SAMPLE = 1 << 16
"""Values looked at to guess a bound."""


def kth_largest(values: Float[Tensor, "..."], k: int) -> Float[Tensor, ""]:
    """The k-th largest of all ``values``, exactly; several times faster than ``topk`` on the flattened tensor.

    An evenly spaced sample gives a bound that almost surely lies just below the answer; only values above it compete.
    Where the guess was too high, everything does.
    """
    flat = values.reshape(-1)
    if not 1 <= k <= len(flat):
        raise ValueError(f"k is {k}; there are {len(flat)} values to choose among")
    stride = max(1, len(flat) // SAMPLE)
    sample = flat[::stride]
    # A margin of four standard deviations of the number of winners that the sample holds.
    expected = k * len(sample) / len(flat)
    rank = min(len(sample), int(expected + 4 * expected**0.5) + 2)
    bound = sample.topk(rank).values[-1]
    candidates = flat[flat >= bound]
    if len(candidates) < k:
        candidates = flat
    return candidates.topk(k, sorted=False).values.min() if k < len(candidates) else candidates.min()
