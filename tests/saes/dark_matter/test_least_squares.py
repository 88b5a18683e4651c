"""The streamed fits against scikit-learn, which sees all rows at once."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

from saes.dark_matter.split.least_squares import LinearMap, NormalEquations


def data(n: int = 500, p: int = 7, q: int = 3) -> tuple[Tensor, Tensor]:
    """Regressors of very different sizes, far from the origin, and targets with noise."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, p, generator=generator) * torch.logspace(-2, 2, p) + 10
    y = z @ torch.randn(p, q, generator=generator) + torch.randn(n, q, generator=generator) - 5
    return z, y


def streamed(z: Tensor, y: Tensor, block: int = 64) -> NormalEquations:
    equations = NormalEquations(z.shape[1], y.shape[1])
    for part_z, part_y in zip(z.split(block), y.split(block), strict=True):
        equations.add(part_z, part_y)
    return equations


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_agrees_with_scikit_learn(fit_intercept: bool, ridge: float) -> None:
    z, y = data()
    found = streamed(z, y).solve(fit_intercept=fit_intercept, ridge=ridge)
    model = Ridge(ridge, fit_intercept=fit_intercept) if ridge else LinearRegression(fit_intercept=fit_intercept)
    model.fit(z.double().numpy(), y.double().numpy())
    np.testing.assert_allclose(found.weights.numpy().T, model.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.intercept.numpy(), model.intercept_ if fit_intercept else 0, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found(z).numpy(), model.predict(z.double().numpy()), rtol=1e-6, atol=1e-6)


def test_blocks_do_not_matter() -> None:
    z, y = data()
    one, many = (streamed(z, y, block).solve(fit_intercept=True) for block in (500, 17))
    torch.testing.assert_close(one.weights, many.weights, rtol=1e-6, atol=1e-6)
    assert streamed(z, y).n == 500


def test_a_path_is_one_fit_a_ridge() -> None:
    z, y = data()
    equations = streamed(z, y)
    for ridge, found in zip((0.0, 1.0, 100.0), equations.path((0.0, 1.0, 100.0), fit_intercept=False), strict=True):
        torch.testing.assert_close(found.weights, equations.solve(fit_intercept=False, ridge=ridge).weights)
    with pytest.raises(ValueError, match="ridge is -1; it must be 0 or more"):
        equations.path((1.0, -1.0), fit_intercept=False)


def test_directions_without_data_get_no_weight() -> None:
    """Rank 3 in 8 dimensions, in float32: rounding must not be taken for data."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    z = torch.randn(400, 3, generator=generator) @ basis[:3]
    found = streamed(z, z @ torch.randn(8, 2, generator=generator)).solve(fit_intercept=False)
    assert (basis[3:].double() @ found.weights).abs().max() < 1e-4
    assert found.weights.norm() < 10


def test_a_map_of_some_targets() -> None:
    whole = LinearMap(weights=torch.eye(3, dtype=torch.float64), intercept=torch.arange(3.0, dtype=torch.float64))
    z = torch.ones(2, 3)
    assert torch.equal(whole.targets(slice(1, 3))(z), whole(z)[:, 1:])
