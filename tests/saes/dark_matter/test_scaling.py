"""Fits over families of SAEs against laws that were planted (D7, D8)."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from saes.dark_matter.experiments.power_law import fit_power_law, horizon, non_negative_line
from saes.dark_matter.experiments.token_scaling import token_scaling

WIDTHS = [2**i for i in range(14, 21)]


def law(width: float, c: float = 0.12, a: float = 1.5, m: float = 0.3) -> float:
    return c + a * width**-m


def test_a_noiseless_law_is_recovered() -> None:
    """D7."""
    found = fit_power_law(WIDTHS, [law(w) for w in WIDTHS])
    assert found.c.value == pytest.approx(0.12, abs=1e-5)
    assert found.a.value == pytest.approx(1.5, rel=1e-3)
    assert found.m.value == pytest.approx(0.3, abs=1e-4)
    assert found.c.high - found.c.low < 1e-4
    assert found.residual < 1e-7
    assert found.points == 7


def test_the_linear_problem_agrees_with_scipy() -> None:
    """Lines through random points, of which some meet an edge."""
    generator = np.random.default_rng(0)
    edges = set()
    for _ in range(100):
        z, y = generator.random(6), generator.normal(0.3, 1, 6)
        sigma = generator.uniform(0.5, 2, 6)
        expected, _ = nnls(np.stack([np.ones(6), z], axis=1) / sigma[:, None], y / sigma)
        edges.add(tuple(expected > 0))
        assert non_negative_line(z, y, sigma) == pytest.approx(tuple(expected), abs=1e-9)
    assert len(edges) == 4


@pytest.mark.parametrize("constant", [0.2, 0.0])
def test_constant_data_give_a_constant(constant: float) -> None:
    """D7."""
    found = fit_power_law(WIDTHS, [constant] * 7)
    for width in WIDTHS:
        assert found(width) == pytest.approx(constant, abs=1e-9)


def test_rising_data_give_their_mean() -> None:
    """a >= 0: a curve that rises with width is not a power law of this kind."""
    values = [0.1 + 0.01 * i for i in range(7)]
    assert fit_power_law(WIDTHS, values)(WIDTHS[0]) == pytest.approx(np.mean(values), abs=1e-6)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    errors = [0.005 * law(w) for w in WIDTHS]
    inside = 0
    for seed in range(10):
        noisy = [law(w) + e * generator.standard_normal() for w, e in zip(WIDTHS, errors, strict=True)]
        found = fit_power_law(WIDTHS, noisy, standard_errors=errors, seed=seed)
        inside += found.c.low <= 0.12 <= found.c.high
        assert found.c.low <= found.c.value <= found.c.high
    assert inside >= 7


def test_points_weigh_by_their_precision() -> None:
    """One SAE measured on few tokens, far off the law that the others lie on."""
    values = [law(w) for w in WIDTHS]
    values[3] += 0.02
    errors = [1e-5] * 7
    errors[3] = 0.02
    weighted = fit_power_law(WIDTHS, values, standard_errors=errors)
    assert weighted.m.value == pytest.approx(0.3, rel=1e-3)
    assert weighted.c.value == pytest.approx(0.12, abs=1e-4)
    assert abs(fit_power_law(WIDTHS, values).m.value - 0.3) > 0.01
    for unknown in (math.nan, 0.0):
        assert fit_power_law(WIDTHS, values, standard_errors=[unknown] * 7) == fit_power_law(WIDTHS, values)
    with pytest.raises(ValueError, match="2 standard errors for 7 values of FVU"):
        fit_power_law(WIDTHS, values, standard_errors=[0.1, 0.1])


def test_scatter_beyond_the_standard_errors_widens_the_intervals() -> None:
    """SAEs differ by their training too: errors five times too small give the intervals of the scatter."""
    generator = np.random.default_rng(1)
    noisy = [law(w) + 0.002 * generator.standard_normal() for w in WIDTHS]
    known = fit_power_law(WIDTHS, noisy, standard_errors=[4e-4] * 7)
    by_scatter = fit_power_law(WIDTHS, noisy)
    assert (known.c.low, known.c.high) == pytest.approx((by_scatter.c.low, by_scatter.c.high), rel=1e-6)


def test_three_points_leave_nothing_to_judge_the_fit_by() -> None:
    found = fit_power_law(WIDTHS[:3], [law(w) for w in WIDTHS[:3]])
    assert math.isinf(found.c.high)
    known = fit_power_law(WIDTHS[:3], [law(w) for w in WIDTHS[:3]], standard_errors=[1e-4] * 3)
    assert known.c.low < 0.12 < known.c.high < 1
    assert found(WIDTHS[0]) == pytest.approx(law(WIDTHS[0]), rel=1e-4)


def test_the_horizon_adds_up_to_the_curve() -> None:
    found = fit_power_law(WIDTHS, [law(w) for w in WIDTHS])
    cut = horizon(found, WIDTHS, [0.07, 0.09] * 3 + [0.08])
    assert cut.nonlinear == pytest.approx(0.08)
    assert cut.linear == pytest.approx(0.04, abs=1e-4)
    for width, absent in zip(WIDTHS, cut.absent, strict=True):
        assert absent + cut.linear + cut.nonlinear == pytest.approx(law(width), abs=1e-6)


@pytest.mark.parametrize(
    ("widths", "fvu"), [([8, 16], [0.2, 0.1]), ([8, 8, 16], [0.1] * 3), ([8, 16, 32], [0.1, 1e400, 0.2])]
)
def test_too_few_widths_are_refused(widths: list[int], fvu: list[float]) -> None:
    with pytest.raises(ValueError, match="need 3 widths or more"):
        fit_power_law(widths, fvu)


def test_per_token_scaling_of_planted_norms() -> None:
    """D8: n_j = 0.7 n_i + 5 + N(0, 10²), n_i of Gamma(9, 10); then with 0.5 nl, nl of Gamma(9, 5)."""
    n = 120_000
    generator = torch.Generator().manual_seed(0)

    def gamma(scale: float) -> torch.Tensor:
        return scale * -torch.rand(n, 9, generator=generator).clamp_min(1e-12).log().sum(1)

    smaller, nonlinear = gamma(10), gamma(5)
    larger = 0.7 * smaller + 5 + 10 * torch.randn(n, generator=generator)
    documents = torch.arange(n) // 200
    held = documents % 2 == 0
    found = token_scaling(smaller, nonlinear, larger, held=held, documents=documents)
    assert found.r2.value == pytest.approx(0.815, abs=0.01)
    assert found.remaining_explained.value == pytest.approx(0, abs=0.005)
    found = token_scaling(smaller, nonlinear, larger + 0.5 * nonlinear, held=held, documents=documents)
    assert 100 * found.remaining_explained.value == pytest.approx(36, abs=1.5)
    assert found.r2.n == 300
    assert 0 < found.remaining_explained.standard_error < 0.02


def test_a_token_scaled_from_itself_leaves_nothing() -> None:
    norms = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1
    held = torch.arange(1000) % 2 == 0
    assert token_scaling(
        norms, norms.sqrt(), 2 * norms, held=held, documents=torch.arange(1000)
    ).r2.value == pytest.approx(1)
