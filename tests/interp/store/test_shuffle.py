"""The permutation is one, needs no memory, and is as good as random."""

import numpy as np
import pytest

from interp.store.shuffle import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 99_991])
@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_every_index_once(size: int, seed: int) -> None:
    order = Permutation(size, seed).part(0, size)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_any_part_is_that_of_the_whole() -> None:
    order = Permutation(100_000, 3)
    whole = order.part(0, 100_000)
    assert np.array_equal(order.part(54_321, 60_000), whole[54_321:60_000])
    assert np.array_equal(order.part(99_990, 200_000), whole[99_990:])


def test_seeds_differ() -> None:
    orders = [Permutation(10_000, seed).part(0, 10_000) for seed in range(4)]
    for i in range(4):
        for j in range(i):
            # Two random orders agree at about one place.
            assert (orders[i] == orders[j]).sum() < 10


def test_shuffle_is_global_and_uncorrelated() -> None:
    """Where an element lands says nothing of where it was, nor does where its neighbour lands."""
    size, bins = 200_000, 20
    order = Permutation(size, 0).part(0, size)
    table = np.histogram2d(np.arange(size), order, bins=bins, range=[[0, size]] * 2)[0]
    expected = size / bins**2
    chi_square = ((table - expected) ** 2 / expected).sum()
    freedom = (bins - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5
    limit = 5 / size**0.5
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < limit
    for distance in (1, 2, 16, 4096):
        assert abs(np.corrcoef(order[:-distance], order[distance:])[0, 1]) < limit
    # A displacement of a random order is a third of its size.
    assert np.abs(order - np.arange(size)).mean() == pytest.approx(size / 3, rel=0.01)


def test_large_sizes_stay_inside() -> None:
    size = 3_000_000_019
    order = Permutation(size, 5)
    images = order.part(size - 1000, size)
    assert images.min() >= 0
    assert images.max() < size
    assert len(np.unique(images)) == 1000
