"""Predict how massive activations emerge from the architecture alone (arXiv 2508.03616, section 5).

One row a layer; ten features, of which six are the same for all layers of a model. So a random split leaks: layers of
one model stand on both sides of it. It is what the paper reports; leaving a whole model out is what a prediction for a
new model would be worth. Both are reported, beside a control with shuffled targets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp import metrics
from interp.arguments.extras import extra
from interp.metrics import Estimate
from interp.trajectory.fitting import Trajectory
from interp.trajectory.released import QUANTITIES, ReleasedModel

with extra("sklearn", "predicting curves"):
    from sklearn.base import RegressorMixin
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import LassoCV, RidgeCV
    from sklearn.model_selection import BaseCrossValidator, KFold, LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PowerTransformer, StandardScaler


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is known of a model before it is trained."""

    layers: int
    """How many blocks the model has."""
    d_model: int
    """Width of the residual stream."""
    heads: int
    """How many attention heads a layer has."""
    d_mlp: int
    """How many neurons a layer's MLP has."""


def _pythia(layers: int, d_model: int, heads: int) -> Architecture:
    return Architecture(layers=layers, d_model=d_model, heads=heads, d_mlp=4 * d_model)


PYTHIA: dict[str, Architecture] = {
    "14m": _pythia(6, 128, 4),
    "70m": _pythia(6, 512, 8),
    "160m": _pythia(12, 768, 12),
    "410m": _pythia(24, 1024, 16),
    "1b": _pythia(16, 2048, 8),
    "1.4b": _pythia(24, 2048, 16),
    "2.8b": _pythia(32, 2560, 32),
    "6.9b": _pythia(32, 4096, 32),
    "12b": _pythia(36, 5120, 40),
}
"""The nine of the paper: 188 layers."""

FEATURES = ("l/L", "(l/L)^2", "(l/L)^3", "sqrt(l/L)", "H/d", "d_ff/d", "d/L", "H/L", "log d", "l*L")
"""Table 4 of the paper; l counts from 1."""


def features(architecture: Architecture, layer: int) -> Float[np.ndarray, " 10"]:
    """Of one layer, counted from 0 as everywhere here."""
    a, number = architecture, layer + 1
    depth = number / a.layers
    return np.array(
        [
            depth,
            depth**2,
            depth**3,
            np.sqrt(depth),
            a.heads / a.d_model,
            a.d_mlp / a.d_model,
            a.d_model / a.layers,
            a.heads / a.layers,
            np.log(a.d_model),
            number * a.layers,
        ]
    )


def targets(found: Trajectory) -> dict[str, float]:
    """The five parameters, and three figures that the data determine also where the parameters are not identifiable:
    step and height of the largest value within the measured steps, and the value at the last."""
    curve = found.curve
    inside = np.array([np.clip(curve.peak_step, 0.0, found.last_step)])
    return {
        **{name: getattr(curve, name) for name in ("A", "lam", "gamma", "t0", "K")},
        "peak_step": float(inside[0]),
        "peak_height": float(curve(inside)[0]),
        "final_value": found.final_value,
    }


LOGARITHMIC = frozenset({"A", "lam", "gamma", "t0"})
"""Predicted as logarithms (the paper's log1p of a gamma of 1e-4 is gamma itself); all others after Yeo-Johnson."""

REGRESSORS: dict[str, Callable[[], RegressorMixin]] = {
    "ridge": lambda: RidgeCV(alphas=np.geomspace(1e-3, 1e3, 13)),
    "lasso": lambda: LassoCV(alphas=np.geomspace(1e-2, 1, 9), cv=5, max_iter=20_000),
    "random_forest": lambda: RandomForestRegressor(n_estimators=100, random_state=0),
    "gradient_boosting": lambda: GradientBoostingRegressor(random_state=0),
}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How well one regressor predicts one target; R² is pooled over rows that were held out, ± over models."""

    target: str
    """Which parameter of the curves is predicted."""
    regressor: str
    """Name of what predicts it."""
    layers: int
    """Rows that it was judged on, one a layer."""
    models: int
    """How many models these layers are of."""
    random_split: Estimate
    """Five folds of rows: leaks, as the paper's 80/20 split does."""
    leave_one_model_out: Estimate
    """Nine folds for the paper's nine models: honest; below 0 is worse than the mean of all rows."""
    permuted: Estimate
    """Control: the random split with shuffled targets, which should give nothing."""


def predict(
    table: Float[np.ndarray, "rows features"],
    values: Mapping[str, Sequence[float] | np.ndarray],
    models: Sequence[str],
    *,
    regressors: Sequence[str] = tuple(REGRESSORS),
    seed: int = 0,
) -> list[Prediction]:
    """Every target by every regressor.

    Args:
        table: one row a layer, see :func:`features`.
        values: name of a target -> its value in each row. Those in ``LOGARITHMIC`` must be positive.
        models: of each row.
        regressors: names in ``REGRESSORS``.
        seed: of folds and shuffling.

    Raises:
        ValueError: fewer than two models or ten rows; lengths that differ; values that are not finite, or not positive
            where a logarithm is taken.
    """
    groups = np.unique(np.asarray(models), return_inverse=True)[1]
    if len(set(models)) < 2 or len(table) < 10 or len(table) != len(models):
        raise ValueError(
            f"{len(table)} rows of {len(set(models))} models (named in {len(models)} rows); at least ten rows of two"
            " models are needed"
        )
    rng = np.random.default_rng(seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    found = []
    for target, given in values.items():
        y = _transformed(target, np.asarray(given, dtype=np.float64), len(table))
        for name in regressors:
            r2 = [
                _held_out_r2(name, table, z, groups, split)
                for z, split in ((y, folds), (y, LeaveOneGroupOut()), (rng.permutation(y), folds))
            ]
            found.append(
                Prediction(
                    target=target,
                    regressor=name,
                    layers=len(table),
                    models=len(set(models)),
                    random_split=r2[0],
                    leave_one_model_out=r2[1],
                    permuted=r2[2],
                )
            )
    return found


def _transformed(target: str, values: np.ndarray, rows: int) -> np.ndarray:
    positive = target in LOGARITHMIC
    if values.shape != (rows,) or not np.isfinite(values).all() or (positive and (values <= 0).any()):
        raise ValueError(
            f"{target} needs {rows} finite values{' above 0' if positive else ''}; leave out layers without them"
        )
    if positive:
        return np.log(values)
    return PowerTransformer("yeo-johnson").fit_transform(values[:, None])[:, 0] if np.ptp(values) else values


def _held_out_r2(
    name: str, table: np.ndarray, y: np.ndarray, groups: np.ndarray, split: BaseCrossValidator
) -> Estimate:
    model: Any = make_pipeline(StandardScaler(), REGRESSORS[name]())
    by_model = groups if isinstance(split, LeaveOneGroupOut) else None
    guessed = cross_val_predict(model, table, y, groups=by_model, cv=split)
    errors, spread = (y - guessed) ** 2, (y - y.mean()) ** 2
    unexplained = metrics.ratio(*map(torch.from_numpy, (errors, spread)), groups=torch.from_numpy(groups), blocks=False)
    return metrics.explained_variance(unexplained)


def predict_released(releases: Sequence[ReleasedModel], *, quantity: str = "ratio") -> list[Prediction]:
    """Fit every layer again and predict each target, on the layers that have it (a logarithm needs a value above 0).

    Raises ValueError for a size that is not one of Pythia's, a quantity there is not, and what ``predict`` raises.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity {quantity!r}; choose {', '.join(QUANTITIES)}")
    if unknown := [each.size for each in releases if each.size not in PYTHIA]:
        raise ValueError(f"the architecture of {', '.join(unknown)} is not known; sizes: {', '.join(PYTHIA)}")
    fits = [(each.size, layer, targets(fit)) for each in releases for layer, fit in enumerate(each.refit(quantity))]
    table = np.stack([features(PYTHIA[size], layer) for size, layer, _ in fits])
    models = np.array([size for size, _, _ in fits])
    found = []
    for target in fits[0][2]:
        values = np.array([figures[target] for _, _, figures in fits])
        usable = np.isfinite(values) & ((values > 0) | (target not in LOGARITHMIC))
        found += predict(table[usable], {target: values[usable]}, models[usable].tolist())
    return found
