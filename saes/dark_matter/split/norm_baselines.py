"""What predicts the size of an SAE's error at a token, without its activation: the baselines for the norm probe.

The paper's (compare_norm_prediction_to_baselines.py), with its token means held out: each baseline is fitted, with an
intercept, on the same rows as the probe and judged on the others.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from interp.metrics import Estimate
from saes.dark_matter.split.bootstrap import Resamples, Unexplained
from saes.dark_matter.split.least_squares import NormalEquations


def norm_baselines(
    squared_norm: Float[Tensor, " n"],
    *,
    held: Bool[Tensor, " n"],
    classes: Mapping[str, Int[Tensor, " n"]],
    numbers: Mapping[str, Num[Tensor, " n"]],
    resamples: Resamples,
) -> dict[str, Estimate]:
    """R² of the squared error norm from one thing known of each row.

    Args:
        squared_norm: ``||x - x_hat||²`` of every row.
        held: Rows that are judged.
        classes: Predict the mean of the class (token, position) over the rows fitted on; a class that is not among
            them, the mean of all.
        numbers: Predict by a line. Rows where the number is not finite (the loss, where nothing is predicted) are
            left out; so is the baseline where no such row is fitted on, or none judged.
    """
    found = {}
    for name, values in classes.items():
        guess = _class_means(values, squared_norm, held)
        judged = held.nonzero()[:, 0]
        left = Unexplained(resamples).add(squared_norm[judged, None], (squared_norm - guess)[judged, None], judged)
        found[name] = left.r2()
    for name, values in numbers.items():
        finite = torch.isfinite(values)
        if not (finite & held).any() or not (finite & ~held).any():
            continue
        found[name] = held_out_r2(
            values[:, None].double(), squared_norm, fitted=finite & ~held, judged=finite & held, resamples=resamples
        ).r2()
    return found


def held_out_r2(
    regressors: Float[Tensor, "n p"],
    target: Float[Tensor, " n"],
    *,
    fitted: Bool[Tensor, " n"],
    judged: Bool[Tensor, " n"],
    resamples: Resamples,
) -> Unexplained:
    """What a line through few regressors (with intercept), fitted on some rows, leaves of others."""
    fit = NormalEquations(regressors.shape[1], 1).add(regressors[fitted], target[fitted, None])
    guess = fit.solve(fit_intercept=True)(regressors[judged])
    truth = target[judged, None].double()
    return Unexplained(resamples).add(truth, truth - guess, judged.nonzero()[:, 0])


def _class_means(classes: Int[Tensor, " n"], target: Float[Tensor, " n"], held: Bool[Tensor, " n"]) -> Tensor:
    names, index = torch.unique(classes, return_inverse=True)
    fitted, values = index[~held], target[~held].double()
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, fitted, values)
    counts = torch.bincount(fitted, minlength=len(names))
    return torch.where(counts > 0, sums / counts, values.mean())[index]
