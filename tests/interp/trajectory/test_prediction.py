"""Prediction from the architecture: features by hand, planted dependence found, a leak shown, nothing from noise."""

import numpy as np
import pytest

from interp.trajectory.emergence_curve import EmergenceCurve
from interp.trajectory.fitting import fit
from interp.trajectory.prediction import FEATURES, PYTHIA, features, predict, targets

ROWS = [(name, layer) for name, a in PYTHIA.items() for layer in range(a.layers)]
TABLE = np.stack([features(PYTHIA[name], layer) for name, layer in ROWS])
MODELS = [name for name, _ in ROWS]


def column(name: str) -> np.ndarray:
    return TABLE[:, FEATURES.index(name)]


def test_features_by_hand() -> None:
    assert len(ROWS) == 188
    assert TABLE.shape == (188, 10)
    first = dict(zip(FEATURES, features(PYTHIA["1b"], 3), strict=True))  # the fourth of 16 layers, d 2048, 8 heads
    assert first == {
        "l/L": 0.25,
        "(l/L)^2": 0.0625,
        "(l/L)^3": 0.015625,
        "sqrt(l/L)": 0.5,
        "H/d": 8 / 2048,
        "d_ff/d": 4,
        "d/L": 128,
        "H/L": 0.5,
        "log d": pytest.approx(np.log(2048)),
        "l*L": 64,
    }


def test_targets_that_the_data_determine() -> None:
    steps = np.linspace(0, 1000, 40)
    early = EmergenceCurve(A=10.0, lam=0.3, gamma=0.02, t0=1.0, K=2.0)
    found = targets(fit(steps, early(steps)))
    assert found["peak_step"] == pytest.approx(early.peak_step)
    assert found["peak_height"] == pytest.approx(early.peak_height)
    assert found["A"] == pytest.approx(10)
    rising = np.log(steps + 1)
    found = targets(fit(steps, rising))
    assert found["peak_step"] == 1000
    assert found["peak_height"] == found["final_value"] == pytest.approx(rising[-1], abs=0.05)


def test_a_planted_dependence_is_found_and_noise_is_not() -> None:
    """Acceptance 13, on K = a H/d + b l L + noise."""
    rng = np.random.default_rng(0)
    planted = 3 * column("H/d") / column("H/d").std() + column("l*L") / column("l*L").std()
    values = {"K": planted + 0.2 * rng.standard_normal(188)}
    found = {each.regressor: each for each in predict(TABLE, values, MODELS)}
    assert set(found) == {"ridge", "lasso", "random_forest", "gradient_boosting"}
    for name in ("random_forest", "gradient_boosting"):
        assert found[name].random_split.value > 0.9
    for each in found.values():
        assert each.permuted.value <= 0.1
        assert (each.layers, each.models, each.random_split.n) == (188, 9, 9)
    assert found["ridge"].leave_one_model_out.value > 0.9, "linear, so it carries over to a new model"


def test_a_random_split_leaks_what_a_new_model_would_show() -> None:
    """A target that is a random number for each model is known from its other layers, and unknown for a new model."""
    rng = np.random.default_rng(1)
    of_model = dict(zip(PYTHIA, rng.standard_normal(9), strict=True))
    values = {"final_value": np.array([of_model[name] for name in MODELS])}
    (found,) = predict(TABLE, values, MODELS, regressors=["random_forest"])
    assert found.random_split.value > 0.95
    assert found.leave_one_model_out.value < 0.3


def test_r2_is_pooled_over_held_out_rows() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal(188))
    (found,) = predict(TABLE, {"gamma": values}, MODELS, regressors=["lasso"])
    assert found.random_split.value == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (slice(0, 6), {"K": np.ones(6)}, "6 rows of 1 models"),
        (slice(0, 20), {"K": np.ones(19)}, "K needs 20 finite values;"),
        (slice(0, 20), {"lam": np.zeros(20)}, "lam needs 20 finite values above 0;"),
        (slice(0, 20), {"peak_step": np.full(20, np.inf)}, "peak_step needs 20 finite values;"),
    ],
)
def test_nonsense_is_refused(rows: slice, values: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(TABLE[rows], values, MODELS[rows])
