"""Least squares for models that are linear in some parameters: search over the others, solving for the linear ones.

Golub and Pereyra 1973. First a grid, whose orthonormal bases depend on the abscissae only and so serve every series
measured at the same points; then MINPACK from the grid's valleys, kept inside the grid's box.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float
from scipy.ndimage import minimum_filter
from scipy.optimize import leastsq

Basis = Callable[..., Float[np.ndarray, "*grid n m"]]
"""Columns of the model at nonlinear parameters, each of shape [*grid]."""

Allowed = Callable[[Float[np.ndarray, "*grid m"]], np.ndarray]
"""Which linear parameters are meaningful, as booleans [*grid]."""


@dataclass(frozen=True)
class Separable:
    """A model: its basis, and of each nonlinear parameter its name, lowest and highest value and grid points."""

    basis: Basis
    """Its columns, of points and nonlinear parameters."""
    axes: tuple[tuple[str, float, float, int], ...]
    """Name, lowest value, highest value and grid points of each nonlinear parameter."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One optimum."""

    nonlinear: Float[np.ndarray, " p"]
    """Nonlinear parameters, in the order of the axes."""
    linear: Float[np.ndarray, " m"]
    """Factors of the columns of the basis."""
    squared_error: float
    """Residual sum of squares."""


class Problem:
    """A model at given abscissae, ready to be fitted to many series."""

    def __init__(self, model: Separable, u: Float[np.ndarray, " n"]) -> None:
        self._model, self._u = model, u
        low, high = np.log([[low, high] for _, low, high, _ in model.axes]).T
        self._middle, self._half = (low + high) / 2, (high - low) / 2

    @cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nonlinear parameters [*grid, p], orthonormal bases [*grid, n, m], and what brings those into linear ones."""
        axes = [np.geomspace(low, high, count) for _, low, high, count in self._model.axes]
        points = np.meshgrid(*axes, indexing="ij")
        q, r = np.linalg.qr(self._model.basis(self._u, *points))
        return np.stack(points, axis=-1), q, np.linalg.pinv(r)

    def valleys(self, values: Float[np.ndarray, " n"], count: int, *, allowed: Allowed | None = None) -> list[Solution]:
        """Up to ``count`` local minima of the squared error over the grid, or its allowed part, best first."""
        points, q, inverse = self._grid
        inside = np.einsum("...nm,n->...m", q, values)
        linear = np.einsum("...lm,...m->...l", inverse, inside)
        errors = np.maximum(values @ values - (inside**2).sum(-1), 0)
        if allowed is not None:
            errors = np.where(allowed(linear), errors, np.inf)
        places = np.argwhere((errors <= minimum_filter(errors, size=3, mode="nearest")) & np.isfinite(errors))
        order = np.argsort(errors[tuple(places.T)], kind="stable")
        return [
            Solution(nonlinear=points[place], linear=linear[place], squared_error=float(errors[place]))
            for place in map(tuple, places[order[:count]])
        ]

    def polish(
        self,
        values: Float[np.ndarray, " n"],
        start: Float[np.ndarray, " p"],
        *,
        tolerance: float = 1e-10,
        evaluations: int = 300,
    ) -> Solution:
        """The optimum near ``start``, or the best of ``evaluations``.

        A sine of the logarithm keeps each parameter between its lowest and highest.
        """
        inside = np.clip((np.log(start) - self._middle) / self._half, -0.999, 0.999)
        found = leastsq(
            lambda p: self._residual(values, p),
            np.arcsin(inside),
            ftol=tolerance,
            xtol=tolerance,
            maxfev=evaluations,
            full_output=True,  # without it the end of the evaluations would be a warning
        )[0]
        nonlinear = np.exp(self._middle + self._half * np.sin(found))
        basis = self._model.basis(self._u, *nonlinear)
        linear = np.linalg.lstsq(basis, values, rcond=None)[0]
        residual = values - basis @ linear
        return Solution(nonlinear=nonlinear, linear=linear, squared_error=float(residual @ residual))

    def _residual(self, values: np.ndarray, p: np.ndarray) -> np.ndarray:
        q = np.linalg.qr(self._model.basis(self._u, *np.exp(self._middle + self._half * np.sin(p))))[0]
        return values - q @ (q.T @ values)


def problem(model: Separable, u: Float[np.ndarray, " n"]) -> Problem:
    """A :class:`Problem`, made once for each model and set of abscissae."""
    return _problem(model, u.tobytes())


@lru_cache(maxsize=32)
def _problem(model: Separable, u: bytes) -> Problem:
    return Problem(model, np.frombuffer(u))
