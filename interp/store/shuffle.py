"""A permutation of 0 … n-1 that needs no memory and can be asked for any part of itself.

A Feistel network is a bijection on b-bit numbers whatever its round function. Numbers of [0, n) that it sends outside
are sent through it again until they come back inside (cycle walking, Black and Rogaway 2002), which is a bijection on
[0, n). With 2^b < 2 n that takes less than two turns on average.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
# Large enough to spread numpy's cost a call, small enough that all temporaries stay in the cache.
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Permutation:
    """Pseudo-random order of ``range(size)``, a function of ``seed`` (any whole number of 0 or more)."""

    size: int
    """How many numbers are put in order."""
    seed: int
    """Which order: any whole number of 0 or more."""

    def __call__(self, indices: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The images of ``indices``, each in ``range(size)``: element ``i`` of the order for each ``i``."""
        out = np.empty(len(indices), dtype=np.int64)
        for begin in range(0, len(indices), _CHUNK):
            out[begin : begin + _CHUNK] = self._walk(indices[begin : begin + _CHUNK].astype(np.uint64))
        return out

    def part(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """Elements ``start`` to ``stop`` of the order, cut at ``size``."""
        return self(np.arange(start, min(stop, self.size), dtype=np.int64))

    def _walk(self, values: np.ndarray) -> np.ndarray:
        size = np.uint64(self.size)
        values = self._network(values)
        outside = np.flatnonzero(values >= size)
        while len(outside):
            values[outside] = self._network(values[outside])
            outside = outside[values[outside] >= size]
        return values

    def _network(self, values: np.ndarray) -> np.ndarray:
        # Halves differ in length where the number of bits is odd, and change places every round. Fewer than 8 bits
        # would leave too few keys to reach every order of a handful of elements.
        bits = max(8, (self.size - 1).bit_length())
        left_bits, right_bits = bits // 2, bits - bits // 2
        left, right = values >> np.uint64(right_bits), values & np.uint64((1 << right_bits) - 1)
        for key in _round_keys(self.seed):
            left, right = right, left ^ (_mix(right ^ key) >> np.uint64(64 - left_bits))
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right


def _round_keys(seed: int) -> list[np.uint64]:
    """Independent 64-bit keys from a seed of any size (numpy's SeedSequence is the same on every platform)."""
    return list(np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64))


def _mix(values: np.ndarray) -> np.ndarray:
    """Every bit of the input changes each high bit of the output about half the time (splitmix64, its last half)."""
    values = values * np.uint64(_GOLDEN)
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xD6E8FEB86659FD93)
    return values
