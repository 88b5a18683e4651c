"""Both laws of the activation ratio: exact curves, planted ones with noise, and what the points cannot tell."""

from collections.abc import Callable

import numpy as np
import pytest

from interp.sparsity import fit_activation_ratio
from interp.sparsity.laws import Form

Law = Callable[[np.ndarray], np.ndarray]


def relu(d: np.ndarray) -> np.ndarray:
    """The paper's 0.1B model."""
    return np.exp(-3.20 * d**0.101 - 0.0151) + 0.0614


def silu(d: np.ndarray) -> np.ndarray:
    """The paper's 0.1B model."""
    return 0.409 - 0.102 / d**0.479


CASES: list[tuple[Form, Law, dict[str, float], tuple[float, float]]] = [
    ("relu", relu, {"c": 3.20, "alpha": 0.101, "b": -0.0151, "A0": 0.0614}, (0.01, 100)),
    ("silu", silu, {"c": 0.102, "alpha": 0.479, "A0": 0.409}, (0.1, 100)),
]


@pytest.mark.parametrize(("form", "law", "parameters", "between"), CASES, ids=["relu", "silu"])
def test_planted_curves(form: Form, law: Law, parameters: dict[str, float], between: tuple[float, float]) -> None:
    """Exact without noise. With 1 % of it, in 40 draws: A0 within 2 % in the median, and 95 % intervals that hold the
    truth in 36 or more."""
    d = np.geomspace(*between, 40)
    exact = fit_activation_ratio(1e9 * d, law(d), form=form)
    assert exact.parameters == pytest.approx(parameters, rel=1e-5)
    assert exact.identifiable
    np.testing.assert_allclose(exact(1e9 * d), law(d), rtol=1e-8)
    generator = np.random.default_rng(0)
    errors, held = [], []
    for _ in range(40):
        found = fit_activation_ratio(1e9 * d, law(d) * (1 + 0.01 * generator.standard_normal(40)), form=form)
        errors.append(abs(found.parameters["A0"] / parameters["A0"] - 1))
        if found.identifiable:
            low, high = found.intervals["A0"]
            held.append(low <= parameters["A0"] <= high)
    assert np.median(errors) < 0.02
    assert len(held) >= 38
    assert sum(held) >= 0.9 * len(held) - 1


def test_the_falling_law_gets_from_its_points_nearly_all_that_is_in_them() -> None:
    """No unbiased estimator of A0 has a smaller variance than Cramer and Rao's bound; weights would gain the rest."""
    d = np.geomspace(0.01, 100, 40)
    shape = np.exp(-3.20 * d**0.101 - 0.0151)
    slopes = np.stack([-(d**0.101) * shape, -3.20 * d**0.101 * np.log(d) * shape, shape, np.ones(40)], axis=1)
    scaled = slopes / (0.01 * relu(d))[:, None]
    bound = np.linalg.inv(scaled.T @ scaled)[3, 3] ** 0.5 / 0.0614
    assert bound == pytest.approx(0.0233, abs=1e-4)
    generator = np.random.default_rng(1)
    draws = [relu(d) * (1 + 0.01 * generator.standard_normal(40)) for _ in range(60)]
    found = [fit_activation_ratio(1e9 * d, each, form="relu").parameters["A0"] / 0.0614 - 1 for each in draws]
    assert 0.7 * bound < np.std(found) < 1.6 * bound


def test_order_and_units_change_nothing() -> None:
    d = np.geomspace(0.1, 100, 20)
    one = fit_activation_ratio(1e9 * d, silu(d), form="silu")
    other = fit_activation_ratio(1e9 * d[::-1], silu(d)[::-1], form="silu")
    assert other == one


def test_points_that_cannot_tell_the_limit_say_so() -> None:
    """A short piece of the falling law is a straight line: limits from below 0 to the curve's end draw it."""
    d = np.geomspace(9, 11, 12)
    noisy = relu(d) * (1 + 0.01 * np.random.default_rng(1).standard_normal(12))
    found = fit_activation_ratio(1e9 * d, noisy, form="relu")
    assert not found.identifiable
    assert set(found.intervals) == {"last_ratio"}
    low, high = found.intervals["last_ratio"]
    assert low <= relu(d[-1:])[0] <= high


@pytest.mark.parametrize("form", ["relu", "silu"])
def test_the_wrong_way_round_is_a_flat_line(form: Form) -> None:
    d = np.geomspace(0.1, 100, 12)
    found = fit_activation_ratio(1e9 * d, 0.3 + (silu(d) - 0.3) * (1 if form == "relu" else -1), form=form)
    other = fit_activation_ratio(
        1e9 * d, 0.3 + (silu(d) - 0.3) * (1 if form == "relu" else -1), form="silu" if form == "relu" else "relu"
    )
    assert (found.parameters["c"], found.identifiable) == (0.0, False)
    assert found.r2 == pytest.approx(0, abs=1e-9)
    assert other.aic < found.aic


def test_refusals() -> None:
    d = np.arange(1.0, 9.0)
    for wrong, message in (
        ({"tokens_seen": d - 1}, "leave step 0 out"),
        ({"ratio": d}, "shares of neurons"),
        ({"tokens_seen": d[:5], "ratio": d[:5] / 10}, "6 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_activation_ratio(**{"tokens_seen": d, "ratio": d / 10, "form": "relu", **wrong})  # type: ignore[arg-type]
