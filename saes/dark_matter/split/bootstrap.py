"""R² and FVU over held-out rows with standard errors from resampled documents, in memory that n does not change.

A resample only weights documents, so the weights of all resamples are drawn first, and while the rows stream by, each
resample's sums grow beside those of the sample itself. Few documents give way to blocks of neighbouring rows, see
``interp.metrics``.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.metrics import Estimate, explained_variance, independent_units

RESAMPLES = 200


class Resamples:
    """Weights of every document (or block of rows) in the sample (row 0: all 1) and in each bootstrap resample.

    Args:
        documents: Of all rows.
        held: Those that will be judged.
        seed: Of the resampling.
    """

    def __init__(self, documents: Int[Tensor, " n"], held: Bool[Tensor, " n"], *, seed: int = 0) -> None:
        self._units = torch.full(documents.shape, -1)
        self._units[held], self._blocks = independent_units(documents[held])
        n = int(self._units.max()) + 1
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randint(n, (RESAMPLES, n), generator=generator)
        counts = torch.zeros(RESAMPLES, n)
        counts.scatter_add_(1, draws, torch.ones_like(counts))
        self.weights = torch.cat([torch.ones(1, n), counts])

    def sums(self, values: Float[Tensor, "m q"], which: Int[Tensor, " m"]) -> Float[Tensor, "resamples q"]:
        """Sums of some judged rows, which come with their numbers among all, for the sample and each resample."""
        units, index = torch.unique(self._units[which], return_inverse=True)
        per_unit = torch.zeros(len(units), values.shape[1], dtype=torch.float64)
        per_unit.index_add_(0, index, values.double().cpu())
        return self.weights[:, units].double() @ per_unit

    def estimate(self, values: Float[Tensor, " resamples"]) -> Estimate:
        """The sample's value with the spread of the resamples'."""
        n = self.weights.shape[1]
        return Estimate(float(values[0]), float(values[1:].std()) if n > 1 else float("nan"), n, self._blocks)


class Unexplained:
    """How much of the variance of some target a prediction leaves, over rows that are added block by block."""

    def __init__(self, resamples: Resamples) -> None:
        self._resamples = resamples
        self._sums: Float[Tensor, "resamples columns"] | None = None

    def add(
        self, truth: Float[Tensor, "n q"], residual: Float[Tensor, "n q"], which: Int[Tensor, " n"]
    ) -> "Unexplained":
        """Add some rows: the target, and the target minus its prediction; and their numbers among all rows."""
        truth, residual = truth.double(), residual.double()
        rows = torch.cat([residual.square(), truth.square(), truth, torch.ones_like(truth[:, :1])], dim=1)
        sums = self._resamples.sums(rows, which)
        self._sums = sums if self._sums is None else self._sums + sums
        return self

    def r2(self) -> Estimate:
        """R², the unweighted mean over dimensions (the paper's; utils.py, calculate_r_squared).

        Dimensions in which the target does not vary have no R² and are left out; NaN where none varies.
        """
        residual, variation = self._residual_and_variation()
        return self._resamples.estimate((1 - residual / variation).nanmean(-1))

    def r2_pooled(self) -> Estimate:
        """R² with all dimensions in one sum, so that large ones count more; NaN where the target does not vary."""
        return explained_variance(self.fvu())

    def fvu(self, *, of: "Unexplained | None" = None) -> Estimate:
        """Fraction of variance unexplained, pooled over dimensions, about the mean of the rows added.

        ``of``: of this one's target, to which the residual belongs too; it had the same rows.
        """
        total = (of or self)._residual_and_variation()[1].nansum(-1)
        residual = self._residual_and_variation()[0].sum(-1)
        return self._resamples.estimate(residual / torch.where(total > 0, total, torch.nan))

    def left_of(self, other: "Unexplained") -> Estimate:
        """Squared residuals here over those of ``other``, which had the same rows."""
        return self._resamples.estimate(
            self._residual_and_variation()[0].sum(-1) / other._residual_and_variation()[0].sum(-1)
        )

    def _residual_and_variation(self) -> tuple[Float[Tensor, "resamples q"], Float[Tensor, "resamples q"]]:
        """Sums of squares of the residual, and of the target about its mean (NaN where it is constant)."""
        if self._sums is None:
            raise ValueError("no rows were added; there is nothing to judge on")
        q = self._sums.shape[1] // 3
        residual, squares, total, n = self._sums.split((q, q, q, 1), dim=1)
        variation = squares - total.square() / n
        # Rounding leaves a constant target a variation of about 1e-16 of its square, of either sign.
        return residual, torch.where(variation > 1e-13 * squares, variation, torch.nan)


def remaining_explained(before: Unexplained, after: Unexplained) -> Estimate:
    """Share of what one prediction leaves that another takes away: (R²_after - R²_before) / (1 - R²_before), pooled."""
    return explained_variance(after.left_of(before))
