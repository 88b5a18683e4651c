"""Selections without a sort against ones with it, ties, extremes and fallbacks included."""

import pytest
import torch
from torch import Tensor

from saes.selection import kth_largest, nearest_in_norm


def values(*shape: int, seed: int = 0, ties: bool = False) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn.mul(3).round() if ties else drawn


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 7, 1000, 150_000, 299_999, 300_000])
def test_kth_largest_is_that_of_a_sort(k: int, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saes.selection.SAMPLE", 1000)
    data = values(300, 1000, ties=ties)
    assert kth_largest(data, k) == data.flatten().sort(descending=True).values[k - 1]


def test_kth_largest_where_the_sample_misleads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sampled value is large, all others small: the bound is too high and everything competes."""
    monkeypatch.setattr("saes.selection.SAMPLE", 100)
    data = torch.zeros(10_000)
    data[::100] = 5.0
    data[1::100] = 1.0
    assert kth_largest(data, 150) == 1.0


@pytest.mark.parametrize("k", [0, 5])
def test_impossible_k(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}; there are 4 values"):
        kth_largest(torch.zeros(4), k)


@pytest.mark.parametrize("first", [1, 4, 64, 100])
@pytest.mark.parametrize("last", [float("inf"), 1e8])
def test_nearest_in_norm_is_that_of_a_sort(first: int, last: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose first few values reach the target, rows that need them all, and rows that nothing reaches."""
    monkeypatch.setattr("saes.selection.FIRST", first)
    squares = values(60, 64).double().relu().square()
    target = torch.linspace(0.0, 30_000.0**0.5, 60, dtype=torch.float64).square()[:, None] / 1000
    indices, counts = nearest_in_norm(squares, target, last=last)
    sorted_, order = squares.sort(descending=True)
    roots = sorted_.cumsum(-1)
    roots[:, -1] = last
    expected = (roots.sqrt() - target).abs().argmin(-1, keepdim=True) + 1
    assert torch.equal(counts, expected)
    for row, count in enumerate(counts.flatten().tolist()):
        kept = squares[row, indices[row, :count]]
        assert torch.equal(kept, squares[row, order[row, :count]])
