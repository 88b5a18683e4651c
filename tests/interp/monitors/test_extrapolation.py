"""Curves whose crossing is known, and sweeps of learning rates whose sensitivity is."""

import math

import numpy as np
import pytest

from interp.monitors import extrapolate, learning_rate_sensitivity

SIZES = [1e7, 3e7, 1e8, 2e8, 3e8]


def quadratic(crossing: float, curvature: float) -> list[float]:
    """log10 value = 4 at ``crossing``, with slope 1.2 there."""
    x = np.log10(SIZES) - math.log10(crossing)
    return (10 ** (4 + 1.2 * x + curvature * x**2)).tolist()


@pytest.mark.parametrize("curvature", [0.0, 0.1, 0.2, -0.05])
def test_a_crossing_far_beyond_the_sizes_is_recovered(curvature: float) -> None:
    found = extrapolate(SIZES, quadratic(4.8e9, curvature))
    assert found.crossing == pytest.approx(4.8e9, rel=1e-6)
    assert found.residual < 1e-9
    assert found.at(4.8e9) == pytest.approx(1e4, rel=1e-6)
    assert found.at(SIZES[0]) == pytest.approx(quadratic(4.8e9, curvature)[0], rel=1e-6)


def test_the_error_of_the_crossing_is_its_spread() -> None:
    rng = np.random.default_rng(0)
    noisy = [np.array(quadratic(1e9, 0.1)) * 10 ** rng.normal(0, 0.01, len(SIZES)) for _ in range(400)]
    found = [extrapolate(SIZES, values.tolist()) for values in noisy]
    logs = [math.log10(each.crossing) for each in found if each.crossing]
    assert len(logs) == 400
    mean_square = np.mean([each.log10_standard_error**2 for each in found])
    assert math.sqrt(mean_square) == pytest.approx(np.std(logs), rel=0.15)


def test_flat_falling_and_distant_curves_have_no_crossing() -> None:
    assert extrapolate(SIZES, [20.0] * 5).crossing is None
    assert extrapolate(SIZES, [1e9 / size for size in SIZES], threshold=50.0).crossing is None
    assert extrapolate(SIZES, quadratic(1e15, 0.0)).crossing is None
    assert math.isnan(extrapolate(SIZES, [20.0] * 5).log10_standard_error)
    assert extrapolate(SIZES, quadratic(1e8, 0.0)).crossing == pytest.approx(1e8)


def test_too_few_sizes_and_values_without_logarithm() -> None:
    with pytest.raises(ValueError, match="4 different sizes or more"):
        extrapolate(SIZES[:3], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="4 different sizes or more"):
        extrapolate([1e7] * 5, [1.0] * 5)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be above 0"):
            extrapolate(SIZES, [1.0, 2.0, 3.0, 4.0, bad])


def test_learning_rate_sensitivity() -> None:
    assert learning_rate_sensitivity([2.5] * 7, loss_init=8.0) == 0
    for diverged in (math.nan, math.inf, 1e9):
        assert learning_rate_sensitivity([2.5] * 6 + [diverged], loss_init=8.0) == pytest.approx(5.5 / 7)
    for losses in ([], [9.0, math.nan]):
        with pytest.raises(ValueError, match="no rate trained"):
            learning_rate_sensitivity(losses, loss_init=8.0)
