"""Least squares from a stream of rows: the normal equations are all that is kept, in float64; memory is O(d²)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Float32 data that span fewer than d dimensions leave eigenvalues of about (6e-8)² of the largest: rounding, not data.
_RELATIVE_CUTOFF = 1e-12


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """``z @ weights + intercept``, in float64."""

    weights: Float[Tensor, "p q"]
    """What inputs are multiplied by."""
    intercept: Float[Tensor, " q"]
    """What is added behind the product."""

    def __call__(self, z: Float[Tensor, "n p"]) -> Float[Tensor, "n q"]:
        """What it predicts from each row."""
        return z.double() @ self.weights + self.intercept

    def targets(self, chosen: slice) -> "LinearMap":
        """The map to some of the targets."""
        return LinearMap(weights=self.weights[:, chosen], intercept=self.intercept[chosen])


class NormalEquations:
    """Sums over rows of ``[z, 1]ᵀ [z, 1, y]``, from which every fit of ``y`` on ``z`` follows.

    Args:
        p: Width of the regressors ``z``.
        q: Width of the targets ``y``.
    """

    def __init__(self, p: int, q: int) -> None:
        self.p, self.q = p, q
        self._sums = torch.zeros(p + 1, p + 1 + q, dtype=torch.float64)

    @property
    def n(self) -> int:
        """Rows added."""
        return int(self._sums[self.p, self.p])

    def add(self, z: Float[Tensor, "n {self.p}"], y: Float[Tensor, "n {self.q}"]) -> "NormalEquations":
        """Add some rows."""
        rows = torch.cat([z.double(), torch.ones(len(z), 1, dtype=torch.float64), y.double()], dim=1)
        self._sums.addmm_(rows[:, : self.p + 1].T, rows)
        return self

    def solve(self, *, fit_intercept: bool, ridge: float = 0.0) -> LinearMap:
        """argmin of ``||y - z @ weights - intercept||² + ridge ||weights||²``; see :meth:`path`."""
        return self.path((ridge,), fit_intercept=fit_intercept)[0]

    def path(self, ridges: tuple[float, ...], *, fit_intercept: bool) -> list[LinearMap]:
        """One fit for each ridge, all from one eigendecomposition.

        Without a ridge, directions in which the data do not vary get weight 0 (the solution of least norm).

        Raises:
            ValueError: a ridge below 0.
        """
        if min(ridges) < 0:
            raise ValueError(f"ridge is {min(ridges):g}; it must be 0 or more")
        of_z, of_one = self._sums[: self.p], self._sums[self.p]
        gram, sum_z, cross = of_z.split((self.p, 1, self.q), dim=1)
        mean_z, mean_y = sum_z[:, 0] / self.n, of_one[self.p + 1 :] / self.n
        if fit_intercept:
            gram, cross = gram - self.n * torch.outer(mean_z, mean_z), cross - self.n * torch.outer(mean_z, mean_y)
        values, vectors = torch.linalg.eigh(gram)
        rotated = vectors.T @ cross
        maps = []
        for ridge in ridges:
            shifted = values + ridge
            inverse = torch.where(shifted > _RELATIVE_CUTOFF * shifted[-1], 1 / shifted, 0.0)
            weights = vectors @ (inverse[:, None] * rotated)
            intercept = mean_y - mean_z @ weights if fit_intercept else torch.zeros_like(mean_y)
            maps.append(LinearMap(weights=weights, intercept=intercept))
        return maps
