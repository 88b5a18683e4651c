"""``FVU(W) = c + a W^(-m)`` over the widths of a family of SAEs, and what it says of an infinitely wide one.

Variable projection: for a given m the best c, a >= 0 are a linear problem, which leaves a search over m alone. (Adam
from random starts, as in the paper's code, ends in local minima.) The horizon is the paper's: what width takes away is
the features that are absent; of what stays, the part linear in x, and the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

_LOG_EXPONENTS = np.log(np.geomspace(0.01, 10, 25))
_RESAMPLES = 200


@dataclass(frozen=True)
class Interval:
    """A fitted number with its central 95 % interval."""

    value: float
    """The number that fits best."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """The fit; intervals are of a parametric bootstrap, unbounded where there are no more points than parameters and
    nothing is known of the points' errors."""

    c: Interval
    """FVU that no width takes away, at this L0."""
    a: Interval
    """Factor of the part that falls with width."""
    m: Interval
    """Exponent of that fall: FVU falls as W^-m."""
    residual: float
    """Root mean square of the points about the curve."""
    points: int
    """How many SAEs it was fitted to."""

    def __call__(self, width: int | float) -> float:
        """The fitted FVU at a width."""
        return self.c.value + self.a.value * width**-self.m.value


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """FVU at each width, cut into three: they add up to the fitted curve."""

    law: PowerLaw
    """The curve that was fitted to FVU over width."""
    widths: tuple[int, ...]
    """Numbers of latents of the SAEs, ascending."""
    absent: tuple[float, ...]
    """Features that a wider SAE learns: the fitted curve less c."""
    linear: float
    """c less the nonlinear part: never learned, but linear in x. Below 0 where the fit extrapolates below it."""
    nonlinear: float
    """Mean over widths of FVU_nonlinear, which the paper finds constant at fixed L0: an upper bound on what the SAEs
    introduce."""


def fit_power_law(
    widths: Sequence[int], fvu: Sequence[float], *, standard_errors: Sequence[float] | None = None, seed: int = 0
) -> PowerLaw:
    """Least squares for c, a >= 0 and 0.01 <= m <= 10, each point weighted by its precision where that is known.

    Args:
        widths: Latents of each SAE.
        fvu: Of each SAE, all at about the same L0.
        standard_errors: Of ``fvu``. Where the points scatter about the curve by more (SAEs differ by their training
            too), intervals allow for it: all errors are scaled up until they explain it (Birge 1932). Without them, or
            where one is 0 or unknown, all points weigh the same and their scatter stands for the errors.
        seed: Of the bootstrap.

    Raises:
        ValueError: fewer than 3 different widths, values that are not finite, or errors of another number.
    """
    x, y = np.asarray(widths, dtype=float), np.asarray(fvu, dtype=float)
    if len(x) != len(y) or len(np.unique(x)) < 3 or not (np.isfinite(y).all() and (x > 0).all()):
        raise ValueError(
            f"{len(np.unique(x))} different widths and {len(y)} values of FVU: three parameters need 3 widths or more,"
            " and a finite FVU for each"
        )
    errors = np.full(len(x), np.nan) if standard_errors is None else np.asarray(standard_errors, dtype=float)
    if len(errors) != len(y):
        raise ValueError(f"{len(errors)} standard errors for {len(y)} values of FVU: give one for each")
    known = bool(np.isfinite(errors).all() and (errors > 0).all())
    scale = errors if known else np.ones(len(x))
    c, a, m = _fit(x, y, scale)
    residuals = y - (c + a * x**-m)
    freedom = len(x) - 3
    scatter = np.sqrt(np.sum((residuals / scale) ** 2) / freedom) if freedom else 0.0 if known else np.inf
    noise = scale * (max(1.0, scatter) if known else scatter)
    if np.isfinite(noise).all():
        generator = np.random.default_rng(seed)
        draws = np.array(
            [_fit(x, c + a * x**-m + noise * generator.standard_normal(len(x)), scale) for _ in range(_RESAMPLES)]
        )
        low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    else:
        low, high = np.full(3, -np.inf), np.full(3, np.inf)
    intervals = [Interval(float(v), float(lo), float(hi)) for v, lo, hi in zip((c, a, m), low, high, strict=True)]
    return PowerLaw(
        c=intervals[0],
        a=intervals[1],
        m=intervals[2],
        residual=float(np.sqrt(np.mean(residuals**2))),
        points=len(x),
    )


def horizon(law: PowerLaw, widths: Sequence[int], fvu_nonlinear: Sequence[float]) -> Horizon:
    """The paper's cut of FVU (sae_power_laws.py, lines 477 to 524)."""
    nonlinear = float(np.mean(fvu_nonlinear))
    return Horizon(
        law=law,
        widths=tuple(widths),
        absent=tuple(law(width) - law.c.value for width in widths),
        linear=law.c.value - nonlinear,
        nonlinear=nonlinear,
    )


def _fit(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> tuple[float, float, float]:
    scale = x.min()  # so that both columns have entries of 1

    def error(log_m: float) -> float:
        powers = (x / scale) ** -np.exp(log_m)
        c, a = non_negative_line(powers, y, sigma)
        return float(np.sum(((y - c - a * powers) / sigma) ** 2))

    errors = [error(log_m) for log_m in _LOG_EXPONENTS]
    best = int(np.argmin(errors))
    around = (_LOG_EXPONENTS[max(best - 1, 0)], _LOG_EXPONENTS[min(best + 1, len(errors) - 1)])
    found = minimize_scalar(error, bounds=around, method="bounded", options={"xatol": 1e-9})
    m = float(np.exp(found.x if found.fun <= errors[best] else _LOG_EXPONENTS[best]))
    c, a = non_negative_line((x / scale) ** -m, y, sigma)
    return c, a * float(scale) ** m, m


def non_negative_line(z: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> tuple[float, float]:
    """The c, a >= 0 that minimise ``||(y - c - a z) / sigma||²``: least squares, or where that is negative, an edge."""
    weight = sigma**-2 / np.sum(sigma**-2)
    spread = z - weight @ z
    if (variation := weight @ spread**2) > 0:
        a = weight @ (spread * y) / variation
        c = weight @ y - a * (weight @ z)
        if a >= 0 and c >= 0:
            return float(c), float(a)
    flat, through_origin = max(weight @ y, 0.0), max(weight @ (z * y) / (weight @ z**2), 0.0)
    if weight @ (y - flat) ** 2 <= weight @ (y - through_origin * z) ** 2:
        return float(flat), 0.0
    return 0.0, float(through_origin)
