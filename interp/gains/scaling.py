"""How singular values go with a model's width, and where AdamW's noise holds weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """value ~ width ** slope; a slope of 0 is invariance.

    Example:
        >>> from interp.gains import Exponent
        >>> Exponent(slope=0.5, standard_error=0.02, n=4).slope
        0.5
    """

    slope: float
    """Exponent of the width; 0 is invariance."""
    standard_error: float
    """From the residuals; NaN with two widths."""
    n: int
    """How many models it was fitted to."""


def width_exponent(widths: Sequence[float | int], values: Sequence[float]) -> Exponent:
    """Slope of log value on log width, such as of top singular values over models of several widths.

    Raises:
        ValueError: fewer than two widths, or values that have no logarithm.

    Example:
        >>> from interp.gains import width_exponent
        >>> round(width_exponent([64, 128, 256], [8.0, 11.313708, 16.0]).slope, 4)
        0.5
    """
    x, y = np.asarray(widths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(np.unique(x)) < 2:
        raise ValueError(
            f"widths {list(widths)} and values {list(values)}: give one value for each, of two widths or more"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError(f"widths {list(widths)} and values {list(values)} must be above 0")
    u = np.log(x) - np.log(x).mean()
    v: Float[np.ndarray, " models"] = np.log(y)
    slope = float(u @ v / (u @ u))
    rest = v - v.mean() - slope * u
    free = len(u) - 2
    error = math.sqrt(float(rest @ rest) / free / float(u @ u)) if free else math.nan
    return Exponent(slope=slope, standard_error=error, n=len(u))


def steady_state_rms(*, learning_rate: float, weight_decay: float) -> float:
    """√(η / 2λ): the RMS of weights that AdamW moves by white gradient noise alone, with β₁ = 0.

    Every step multiplies weights by 1 - ηλ and adds an update of RMS η, so that the variance settles at η / (2λ) after
    some 1 / (ηλ) steps. Before that, size is what initialisation made it.

    Raises:
        ValueError: one of them is not above 0, or their product is not below 1.

    Example:
        >>> from interp.gains import steady_state_rms
        >>> round(steady_state_rms(learning_rate=2e-3, weight_decay=0.1), 6)
        0.1
    """
    if not (learning_rate > 0 and weight_decay > 0 and learning_rate * weight_decay < 1):
        raise ValueError(
            f"learning_rate={learning_rate} and weight_decay={weight_decay} must be above 0, and their product below 1"
        )
    return math.sqrt(learning_rate / (2 * weight_decay))
