"""From small models to large ones: where a monitor crosses a threshold, and how much a learning rate matters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_SIZES = 4


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A quadratic of log10 value in log10 size.

    Example:
        >>> from interp.monitors import extrapolate
        >>> found = extrapolate([1e7, 3e7, 1e8, 3e8], [20.0, 60.0, 200.0, 600.0])  # grows as the size
        >>> round(found.at(1e9)), round(found.crossing / 1e9, 3)  # reaches 10,000 at 5 billion
        (2000, 5.0)
    """

    coefficients: tuple[float, float, float]
    """Of the square, the slope and the constant."""
    crossing: float | None
    """Smallest size at or above the smallest measured one where the curve rises through the threshold; None where it
    does not within ``reach``."""
    log10_standard_error: float
    """Of log10 of the crossing, from the residuals; NaN where there is none."""
    residual: float
    """Root mean square of log10 value about the curve, over n - 3 degrees of freedom."""
    n: int
    """How many sizes it was fitted to."""

    def at(self, size: float) -> float:
        """The curve's value at a size."""
        return float(10 ** np.polyval(self.coefficients, math.log10(size)))


def extrapolate(
    sizes: Sequence[float], values: Sequence[float], *, threshold: float = 1e4, reach: float = 1000.0
) -> Extrapolation:
    """Fit a quadratic in log-log space (arXiv 2309.14322, section 3.4), and find where it crosses ``threshold``.

    Args:
        sizes: parameters of the models, all trained at one learning rate.
        values: such as the largest attention logit of each.
        threshold: the paper saw no stable training above 10⁴.
        reach: how many times the largest size may be looked ahead; what is farther is no crossing.

    Raises:
        ValueError: fewer than four sizes, or values that have no logarithm.

    Example:
        >>> from interp.monitors import extrapolate
        >>> sizes = [1e7, 3e7, 1e8, 3e8]
        >>> found = extrapolate(sizes, [(n / 1e6) ** 2 for n in sizes])
        >>> round(found.crossing / 1e8, 6)
        1.0
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(np.unique(x)) < _LEAST_SIZES:
        raise ValueError(
            f"{len(np.unique(x))} sizes and {y.size} values: a quadratic and its error need {_LEAST_SIZES} different"
            " sizes or more, and one value for each"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all() and threshold > 0):
        raise ValueError(f"sizes {list(sizes)}, values {list(values)}, threshold {threshold}: all must be above 0")
    u, v = np.log10(x), np.log10(y)
    middle = u.mean()
    design = np.vander(u - middle, 3)
    local, *_ = np.linalg.lstsq(design, v, rcond=None)
    free = len(u) - 3
    residual = math.sqrt(float(((v - design @ local) ** 2).sum()) / free)
    a, b, c = local
    shift = np.array([a, b - 2 * a * middle, c - b * middle + a * middle**2])
    crossing, error = None, math.nan
    low, high = u.min() - middle, u.max() + math.log10(reach) - middle
    rising = [r for r in _roots(a, b, c - math.log10(threshold)) if low <= r <= high and 2 * a * r + b > 1e-9]
    if rising:
        at = min(rising)
        crossing = float(10 ** (at + middle))
        gradient = -np.array([at**2, at, 1.0]) / (2 * a * at + b)
        error = residual * math.sqrt(float(gradient @ np.linalg.inv(design.T @ design) @ gradient))
    return Extrapolation(
        coefficients=(float(shift[0]), float(shift[1]), float(shift[2])),
        crossing=crossing,
        log10_standard_error=error,
        residual=residual,
        n=len(u),
    )


def _roots(a: float, b: float, c: float) -> list[float]:
    """Real roots; the quadratic's term is dropped where it is rounding."""
    if abs(a) < 1e-12 * max(abs(b), abs(c), 1.0):
        return [-c / b] if abs(b) > 1e-12 else []
    discriminant = b * b - 4 * a * c
    if discriminant < 0:
        return []
    q = -0.5 * (b + math.copysign(math.sqrt(discriminant), b))
    return [q / a, *([c / q] if q else [])]


def learning_rate_sensitivity(losses: Sequence[float], *, loss_init: float) -> float:
    """Mean over learning rates of min(loss, loss_init) - the best loss (arXiv 2309.14322, section 2.2).

    Args:
        losses: final loss at each rate of a range; NaN or infinity where training diverged.
        loss_init: at initialisation, beyond which no rate is counted as worse.

    Raises:
        ValueError: no rate that ended below ``loss_init``, or none at all.

    Example:
        >>> from interp.monitors import learning_rate_sensitivity
        >>> learning_rate_sensitivity([2.0, 2.0, float("nan"), 2.0], loss_init=6.0)
        1.0
    """
    found = np.asarray(losses, dtype=np.float64)
    capped = np.minimum(np.where(np.isnan(found), np.inf, found), loss_init)
    if not len(capped) or not math.isfinite(loss_init) or not capped.min() < loss_init:
        raise ValueError(f"losses {list(losses)}: none is below loss_init={loss_init}, so that no rate trained at all")
    return float((capped - capped.min()).mean())
