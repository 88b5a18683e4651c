"""The toy: what is clamped shortens the plateau, in every seed."""

import math

import pytest
import torch

from interp.clamping import trilinear_losses


def escape(seed: int, clamped: str) -> float:
    """First step at which the loss is below half of that of the zero solution."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    zero = 0.5 * float(target.square().sum(1).prod()) / 20**3
    below = (trilinear_losses(clamped=clamped, seed=seed) < zero / 2).nonzero()
    return float(below[0]) if len(below) else math.inf


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_clamps_shorten_the_plateau(seed: int) -> None:
    none, c, bc = (escape(seed, clamped) for clamped in ("", "c", "bc"))
    assert none > c >= bc


def test_the_losses_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(7)
    target, now = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    now = (now / 5**0.5).requires_grad_(True)
    expected = []
    for _ in range(4):
        full = torch.einsum("i,j,k->ijk", *now) - torch.einsum("i,j,k->ijk", *target)
        loss = 0.5 * full.square().mean()
        expected.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, now)
        now = (now - 0.3 * gradient).detach().requires_grad_(True)
    found = trilinear_losses(dim=5, steps=3, learning_rate=0.3, seed=7)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_all_clamped_is_the_solution_and_nonsense_is_refused() -> None:
    assert trilinear_losses(clamped="abc", steps=2).abs().max() < 1e-12
    with pytest.raises(ValueError, match="the vectors are a, b and c"):
        trilinear_losses(clamped="d")
    with pytest.raises(ValueError, match="must be above 0"):
        trilinear_losses(dim=0)
