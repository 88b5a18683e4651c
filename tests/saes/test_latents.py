"""Slots of the entries of a dense matrix that are kept."""

import pytest
import torch
from torch import Tensor

from saes.latents import Latents, Slots, slots_above, slots_where


def kept(slots: Slots) -> list[set[int]]:
    """The columns of each row."""
    rows = zip(slots.indices.flatten(0, -2), slots.taken.flatten(0, -2), strict=True)
    columns = [indices[taken].tolist() for indices, taken in rows]
    assert all(len(set(row)) == len(row) for row in columns)
    return [set(row) for row in columns]


def dense(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).mul(4).round()


@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 96), (4, 7), (3, 1), (0, 8)])
@pytest.mark.parametrize("bound", [-100.0, 0.0, 3.0, 100.0])
def test_above_is_where_it_is_at_least(shape: tuple[int, ...], bound: float) -> None:
    """Widths that divide into groups and that do not; ties with the bound; all entries, and none."""
    values = dense(*shape)
    slots = slots_above(values, torch.tensor(bound))
    expected = slots_where(values >= bound)
    assert slots.indices.shape == slots.taken.shape == expected.indices.shape
    assert kept(slots) == kept(expected)
    assert int(slots.taken.sum()) == int((values >= bound).sum())


@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 7), (0, 8)])
def test_of_a_dense_tensor_and_back(shape: tuple[int, ...]) -> None:
    values = dense(*shape).requires_grad_()
    latents = Latents.from_dense(values)
    assert torch.equal(latents.to_dense(), values)
    assert torch.equal(latents.l0, (values != 0).sum(-1))
    (gradient,) = torch.autograd.grad(latents.to_dense().square().sum(), [values])
    assert torch.equal(gradient, 2 * values)
