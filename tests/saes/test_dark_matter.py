"""The split of an SAE's error against errors that were planted."""

import pytest
import torch
from torch import Tensor

from saes.dark_matter import decompose


def data(n: int = 4000, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_parts_add_up_to_the_error() -> None:
    x = data()
    x_hat = 0.7 * x + 0.2 * data(seed=1)
    split = decompose(x, x_hat, documents=torch.arange(4000) // 100)
    torch.testing.assert_close(split.linear_error + split.nonlinear_error, x - x_hat, rtol=0, atol=1e-5)
    assert (split.n_train, split.n_test) == (2400, 1600)
    assert split.fvu.n == split.r2_vector.n == 16


def test_shrinkage_is_linear_error() -> None:
    """An SAE that only shrinks: the whole error is linear in x, whatever the shrinkage."""
    x = data()
    split = decompose(x, 0.6 * x)
    assert split.r2_vector.value == pytest.approx(1.0, abs=1e-9)
    assert split.fvu.value == pytest.approx(0.16, rel=0.01)
    assert split.fvu_nonlinear.value == pytest.approx(0.0, abs=1e-9)


def test_planted_mixture_is_measured() -> None:
    """Error = 0.3 x + noise of variance 0.16: R² = 0.09 / 0.25, FVU 0.25, of which 0.16 is not linear."""
    x = data(40_000)
    split = decompose(x, 0.7 * x - 0.4 * data(40_000, seed=1))
    for estimate, expected in (
        (split.r2_vector, 0.36),
        (split.r2_vector_pooled, 0.36),
        (split.fvu, 0.25),
        (split.fvu_nonlinear, 0.16),
    ):
        assert abs(estimate.value - expected) < 5 * estimate.standard_error
        assert 0 < estimate.standard_error < 0.02


def test_introduced_error_is_not_linear() -> None:
    x = data(20_000)
    split = decompose(x, x - 0.5 * data(20_000, seed=1))
    assert split.r2_vector.value == pytest.approx(0.0, abs=0.01)
    assert split.fvu_nonlinear.value == pytest.approx(split.fvu.value, rel=0.01)


def test_norm_probe_predicts_the_squared_norm() -> None:
    """||e||² = w·x on data whose first coordinate is positive; the vector's direction is random."""
    x = data(20_000).abs()
    direction = torch.nn.functional.normalize(data(20_000, seed=1), dim=-1)
    split = decompose(x, x - direction * x[:, :1].sqrt())
    assert split.r2_norm.value == pytest.approx(1.0, abs=1e-6)
    assert split.r2_vector.value < 0.01


def test_intercept_matters_for_a_constant_error() -> None:
    x = data(20_000)
    constant = x - 5 - 0.1 * data(20_000, seed=1)
    assert decompose(x, constant).r2_vector.value < -1
    assert decompose(x, constant, fit_intercept=True).r2_vector.value == pytest.approx(0.0, abs=0.01)


def test_pooled_and_mean_r2_differ() -> None:
    """Two dimensions, the large one predictable: 0.5 as a mean, nearly 1 pooled."""
    x = torch.cat([10 * data(20_000, 1), data(20_000, 1, seed=1)], dim=1)
    x_hat = torch.cat([0 * x[:, :1], x[:, 1:] - data(20_000, 1, seed=2)], dim=1)
    split = decompose(x, x_hat)
    assert split.r2_vector.value == pytest.approx(0.5, abs=0.01)
    assert split.r2_vector_pooled.value == pytest.approx(0.99, abs=0.01)


def test_too_few_tokens() -> None:
    with pytest.raises(ValueError, match="too few for d = 8: fitting needs 40"):
        decompose(data(20), data(20))
    with pytest.raises(ValueError, match="at least one document"):
        decompose(data(), data(seed=1), documents=torch.zeros(4000, dtype=torch.long), train_fraction=0.9)
    with pytest.raises(ValueError, match="train_fraction is 1"):
        decompose(data(), data(seed=1), train_fraction=1.0)
