"""How a figure goes through training: fit the emergence curve beside its rivals, and say what the data can tell.

The fit is by variable projection over the two nonlinear parameters of equation 14 of arXiv 2508.03616, from several
valleys of a grid, then least squares in the original five with the analytic Jacobian (MINPACK). Steps are linear; all
points weigh the same, so R² depends on which steps were measured.

Where the peak lies outside the measured steps, the five parameters are not identifiable: very different ones draw the
same curve. Then ``identifiable`` is False, and only the curve, its value at the last step, R² and the class mean
something. Intervals are those of :mod:`interp.trajectory.curve_intervals`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from joblib import Parallel, delayed
from scipy.optimize import leastsq
from scipy.stats import t as student

from interp.trajectory.curve_intervals import PARAMETERS, POSITIVE, curve_intervals, leverage, linearised
from interp.trajectory.emergence_curve import EmergenceCurve
from interp.trajectory.rival_curves import RIVALS
from interp.trajectory.variable_projection import Problem, Separable, Solution, problem

LayerClass = Literal["early_peak", "log_increase", "decay", "other"]

_MAX_CONDITION = 1e3  # early peaks have 50 to 100, logarithmic rises 1e5 and more
_MAX_FACTOR = 10.0  # wider than that, a first-order interval is no interval
_STARTS = 5


def _emergence(u: np.ndarray, beta: Any, tau: Any) -> np.ndarray:
    """Columns of A1, A2 and K in equation 14."""
    decay = np.exp(-beta[..., None] * u)
    return np.stack([decay * np.log(u + tau[..., None]), decay, np.ones_like(decay)], axis=-1)


# With time in units of the last step. Above β = 300 all is over at the first step after 0, and below 1e-3 nothing
# decays; the box also keeps λ from running to 0 for ever, where the data ask for a logarithm.
_EMERGENCE = Separable(_emergence, (("beta", 1e-3, 300.0, 80), ("tau0", 1e-6, 2.0, 80)))


@dataclass(frozen=True, kw_only=True)
class RivalFit:
    """Another form on the same points.

    Example:
        >>> from interp.trajectory import RivalFit
        >>> RivalFit(parameters={"c": 1.0}, r2=0.9, aic=12.0).r2
        0.9
    """

    parameters: dict[str, float]
    """Fitted parameters of the form, by name."""
    r2: float
    """Share of the values' variance that it explains."""
    aic: float
    """As ``Trajectory.aic``, with its own number of parameters."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One series with its fitted curve; ``n`` points, and 95 % intervals of what they determine.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import EmergenceCurve, fit
        >>> steps = np.geomspace(1, 1e5, 20)
        >>> found = fit(steps, EmergenceCurve(A=40.0, lam=1.0, gamma=1e-3, t0=10.0, K=5.0)(steps))
        >>> found.n, found.last_step
        (20, 100000.0)
    """

    n: int
    """How many points were fitted."""
    last_step: float
    """The last step that was measured."""
    curve: EmergenceCurve
    """The curve that fits best."""
    r2: float
    """Share of the values' variance that the curve explains."""
    aic: float
    """n ln(RSS / n) + 2 k, k = 5; to be compared only with others of the same series."""
    condition: float
    """Of the Jacobian with normalised columns: how far the data are from telling the parameters apart."""
    identifiable: bool
    """The peak and its interval are within the measured steps, ``condition`` is below 1,000, and the intervals of A, λ,
    gamma and t0 are within a factor of ten of their values."""
    layer_class: LayerClass
    """``early_peak``: rises, is largest within the steps, falls. ``log_increase``: still rises at the last step.
    ``decay``: falls from the start. ``other``: the curve does not describe the series (R² too low)."""
    empirical_peak_step: float
    """The step whose value is largest."""
    class_agrees: bool
    """Whether the largest value lies where the class says (first, last, or between), or elsewhere by no more than the
    noise there: what the curve lacks at that step of its highest is within 99 % of Student's t."""
    final_value: float
    """The curve at the last step."""
    intervals: dict[str, tuple[float, float]]
    """Of the parameters, ``peak_step``, ``peak_height`` and ``final_value`` where ``identifiable``; else of
    ``final_value`` alone, and of nothing where the class is ``other``."""
    rivals: dict[str, RivalFit]
    """Fits of other forms to the same points, by name."""

    @property
    def peak_step(self) -> float:
        """In closed form; beyond the last step it is an extrapolation, and may be infinite."""
        return self.curve.peak_step

    @property
    def peak_height(self) -> float:
        """In closed form."""
        return self.curve.peak_height

    @property
    def best_form(self) -> str:
        """``emergence`` or the rival with the lowest AIC."""
        scores = {"emergence": self.aic} | {name: rival.aic for name, rival in self.rivals.items()}
        return min(scores, key=scores.__getitem__)


def fit(
    steps: Sequence[float | int] | np.ndarray,
    values: Sequence[float | int] | np.ndarray,
    *,
    min_r2: float = 0.9,
) -> Trajectory:
    """Fit the emergence curve with A > 0, and its rivals, to values measured at training steps.

    Args:
        steps: optimiser steps, each once, in any order, 0 included.
        values: one a step.
        min_r2: below it the class is ``other``.

    Raises:
        ValueError: fewer than six points, other than finite numbers, negative or repeated steps.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import EmergenceCurve, fit
        >>> steps = np.geomspace(1, 1e5, 20)
        >>> found = fit(steps, EmergenceCurve(A=40.0, lam=1.0, gamma=1e-3, t0=10.0, K=5.0)(steps))
        >>> found.r2 > 0.999
        True
    """
    t, y = _checked(steps, values)
    units = _Units(last=float(t[-1]), offset=float(y.min()), scale=float(np.ptp(y)) or 1.0)
    u, z = t / units.last, (y - units.offset) / units.scale
    total = float(((z - z.mean()) ** 2).sum())

    def quality(squared_error: float, parameters: int) -> dict[str, float]:
        rss = max(squared_error * units.scale**2, 1e-300)
        r2 = 1 - squared_error / total if total else float("nan")
        return {"r2": r2, "aic": len(t) * float(np.log(rss / len(t))) + 2 * parameters}

    rivals = {}
    for name, model in RIVALS.items():
        found = _best(problem(model, u), z, 2)
        y0, gain = found.linear.tolist()
        shape = dict(zip((axis[0] for axis in model.axes), found.nonlinear.tolist(), strict=True))
        parameters = {"y0": y0 * units.scale + units.offset, "gain": gain * units.scale} | shape
        rivals[name] = RivalFit(parameters=parameters, **quality(found.squared_error, len(parameters)))
    curve = _fit_normalised(u, z)
    own = quality(float(((z - curve(u)) ** 2).sum()), len(PARAMETERS))
    condition = _condition(curve, u)
    scaled = units.restore(curve)
    layer_class = _classify(scaled, units.last, own["r2"], min_r2)
    intervals = {} if layer_class == "other" else curve_intervals(scaled, t, y)
    identifiable = layer_class == "early_peak" and condition < _MAX_CONDITION and _narrow(intervals, scaled, units.last)
    return Trajectory(
        n=len(t),
        last_step=units.last,
        curve=scaled,
        **own,
        condition=condition,
        identifiable=identifiable,
        layer_class=layer_class,
        empirical_peak_step=float(t[y.argmax()]),
        class_agrees=_agrees(layer_class, scaled, t, y),
        final_value=float(scaled(t[-1:])[0]),
        intervals={name: each for name, each in intervals.items() if identifiable or name == "final_value"},
        rivals=rivals,
    )


def fit_all(
    steps: Sequence[float | int] | np.ndarray,
    series: Float[np.ndarray, "series steps"],
    *,
    processes: int = 1,
    **options: Any,
) -> list[Trajectory]:
    """:func:`fit` for every row of ``series``, over several processes where asked; ``options`` are those of ``fit``.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import EmergenceCurve, fit_all
        >>> steps = np.geomspace(1, 1e5, 20)
        >>> curves = [EmergenceCurve(A=40.0, lam=1.0, gamma=gamma, t0=10.0, K=5.0)(steps) for gamma in (1e-3, 1e-4)]
        >>> [round(found.curve.gamma, 6) for found in fit_all(steps, np.array(curves))]
        [0.001, 0.0001]
    """
    return Parallel(n_jobs=processes)(delayed(fit)(steps, row, **options) for row in series)


def _checked(steps: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    t, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if t.ndim != 1 or t.shape != y.shape:
        raise ValueError(f"steps and values must be two lists of one length, not of shapes {t.shape} and {y.shape}")
    if len(t) < 6:
        raise ValueError(f"{len(t)} points cannot determine five parameters; measure at least 6 steps, better 30")
    if not (np.isfinite(t).all() and np.isfinite(y).all()):
        raise ValueError("steps and values must be finite; leave out the steps that failed")
    if t.min() < 0 or len(set(t.tolist())) < len(t):
        raise ValueError("steps must be 0 or more, each once: average or drop repeated measurements of a step")
    order = np.argsort(t)
    return t[order], y[order]


@dataclass(frozen=True, kw_only=True)
class _Units:
    """Series are fitted with time and values between 0 and 1."""

    last: float
    offset: float
    scale: float

    def restore(self, curve: EmergenceCurve) -> EmergenceCurve:
        return EmergenceCurve(
            A=curve.A * self.scale,
            lam=curve.lam,
            gamma=curve.gamma / self.last,
            t0=curve.t0,
            K=curve.K * self.scale + self.offset,
        )


def _best(of: Problem, z: np.ndarray, starts: int) -> Solution:
    return min(
        (of.polish(z, start.nonlinear) for start in of.valleys(z, starts)), key=lambda found: found.squared_error
    )


def _fit_normalised(u: np.ndarray, z: np.ndarray) -> EmergenceCurve:
    grid = problem(_EMERGENCE, u)
    curves = []
    for start in grid.valleys(z, _STARTS, allowed=_is_emergence):
        polished = grid.polish(z, start.nonlinear)
        # Where the optimum has A < 0, the best curve with A > 0 is nearer to the start.
        curves.append(_curve(polished if _is_emergence(polished.linear) else start))
    curves.append(_nearly_exponential(u, z))
    polished_curves = [_polish(curve, u, z) for curve in curves]
    return min(polished_curves, key=lambda curve: float(((curve(u) - z) ** 2).sum()))


def _nearly_exponential(u: np.ndarray, z: np.ndarray) -> EmergenceCurve:
    """The edge of A > 0, which is the optimum of a convex rise or a constant: almost only K + A2 exp(-β t)."""
    found = _best(problem(RIVALS["first_order"], u), z, 1)
    y0, gain = found.linear.tolist()
    slope = max(abs(gain), 1e-9) / 250
    return EmergenceCurve.from_reparametrised(min(1 / float(found.nonlinear[0]), 300.0), 1.0, slope, -gain, y0 + gain)


def _is_emergence(linear: np.ndarray) -> Any:
    """A > 0, and a gamma = exp(A2 / A1) that a float holds."""
    slope, intercept = linear[..., 0], linear[..., 1]
    return (slope > 0) & (np.abs(intercept) < 300 * np.abs(slope))


def _curve(found: Solution) -> EmergenceCurve:
    """Of a point of equation 14."""
    return EmergenceCurve.from_reparametrised(*found.nonlinear.tolist(), *found.linear.tolist())


def _polish(curve: EmergenceCurve, u: np.ndarray, z: np.ndarray) -> EmergenceCurve:
    """Least squares in A, λ, gamma, t0 and K: the first four as logarithms, which keeps them, and x, positive."""

    def at(theta: np.ndarray) -> EmergenceCurve:
        a, lam, gamma, t0 = np.exp(theta[:4]).tolist()
        return EmergenceCurve(A=a, lam=lam, gamma=gamma, t0=t0, K=float(theta[4]))

    def jacobian(theta: np.ndarray) -> np.ndarray:
        return np.nan_to_num(at(theta).jacobian(u) * np.append(np.exp(theta[:4]), 1.0))

    start = np.append(np.log([curve.A, curve.lam, curve.gamma, curve.t0]), curve.K)
    with np.errstate(all="ignore"):
        theta = leastsq(
            lambda theta: np.nan_to_num(at(theta)(u) - z, nan=1e6, posinf=1e6, neginf=-1e6),
            start,
            Dfun=jacobian,
            maxfev=100,
            ftol=1e-14,
            xtol=1e-14,
            gtol=0.0,
            full_output=True,
        )[0]
        polished = at(theta)
        inside = all(
            low <= value <= high
            for value, (_, low, high, _) in zip(polished.reparametrised()[:2], _EMERGENCE.axes, strict=True)
        )
        better = float(((polished(u) - z) ** 2).sum()) < float(((curve(u) - z) ** 2).sum())
    return polished if inside and better else curve


def _condition(curve: EmergenceCurve, u: np.ndarray) -> float:
    """Of the Jacobian by A, λ, gamma, t0, K with normalised columns, so that units do not matter."""
    with np.errstate(all="ignore"):
        columns = curve.jacobian(u)
        norms = np.linalg.norm(columns, axis=0)
        usable = np.isfinite(norms).all() and norms.all()
        return float(np.linalg.cond(columns / norms)) if usable else np.inf


def _classify(curve: EmergenceCurve, last: float, r2: float, min_r2: float) -> LayerClass:
    if not r2 >= min_r2:
        return "other"
    if curve.peak_step <= 0:
        return "decay"
    return "early_peak" if curve.peak_step < last else "log_increase"


def _narrow(intervals: dict[str, tuple[float, float]], curve: EmergenceCurve, last: float) -> bool:
    """Whether the peak is known to lie within the steps, and each positive figure to within ``_MAX_FACTOR``."""
    return (
        bool(intervals)
        and intervals["peak_step"][1] < last
        and all(intervals[name][1] <= _MAX_FACTOR * getattr(curve, name) for name in POSITIVE)
    )


def _agrees(found: LayerClass, curve: EmergenceCurve, t: np.ndarray, y: np.ndarray) -> bool:
    largest = int(y.argmax())
    where = "decay" if largest == 0 else "log_increase" if largest == len(t) - 1 else "early_peak"
    if found in ("other", where):
        return True
    fitted = curve(t)
    drop = fitted.max() - fitted[largest]
    # Noise grows with size, so it is that of the other points in the upper half of the curve.
    high = fitted >= (fitted.max() + fitted.min()) / 2
    high[largest] = False
    points = int(high.sum())
    if not points:
        return False
    free = np.maximum(1 - np.diag(leverage(linearised(curve, t))), 1e-9)
    noise = np.sqrt(((y - fitted) ** 2 / free)[high].mean())
    # Of the largest of so many points, hence Bonferroni's share of 1 %.
    return bool(drop <= student.ppf(1 - 0.005 / points, points) * np.sqrt(2) * noise)
