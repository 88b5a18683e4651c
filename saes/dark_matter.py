"""What an SAE misses, split in two: the part of its error that a linear map of the activation predicts, and the rest.

Engels, Riggs, Tegmark (arXiv 2410.14670). The error is ``x - x_hat``; the probe is ordinary least squares without
intercept (theirs), fitted on some documents and judged on others. The nonlinear part is an upper bound on what the SAE
itself introduced, never an estimate of it: features it lacks are only partly linear in x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate

RESAMPLES = 200
"""Bootstrap resamples behind the standard error of each R²."""


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """The split of an SAE's error; every figure is measured on held-out documents (rows, where none were given)."""

    linear_error: Float[Tensor, "n d"]
    """The probe's prediction of the error, for every row."""
    nonlinear_error: Float[Tensor, "n d"]
    """What the probe leaves: the two parts add up to the error."""
    fvu: Estimate
    """FVU(x, x_hat), about the mean."""
    fvu_nonlinear: Estimate
    """FVU(x, x_hat + linear error): an upper bound on the error that the SAE introduced."""
    r2_vector: Estimate
    """R² of the error vector from x, the mean over dimensions (as in the paper)."""
    r2_vector_pooled: Estimate
    """The same with all dimensions in one sum: large ones count more."""
    r2_norm: Estimate
    """R² of the squared error norm from x."""
    fit_intercept: bool
    n_train: int
    n_test: int


def decompose(
    x: Float[Tensor, "n d"],
    x_hat: Float[Tensor, "n d"],
    *,
    documents: Int[Tensor, " n"] | None = None,
    fit_intercept: bool = False,
    train_fraction: float = 0.6,
    seed: int = 0,
) -> Decomposition:
    """Fit the probes on ``train_fraction`` of the documents and measure on the rest.

    Raises ValueError where fewer than 5 d rows are left to fit on, or where there is nothing to judge on.
    """
    groups = torch.arange(len(x)) if documents is None else torch.unique(documents, return_inverse=True)[1]
    test = _held_out(groups, train_fraction, seed)
    n_train, n_test, d = int((~test).sum()), int(test.sum()), x.shape[1]
    if n_train < 5 * d or n_test == 0:
        raise ValueError(
            f"{n_train} rows to fit on and {n_test} to judge on are too few for d = {d}: fitting needs {5 * d} or more,"
            " judging at least one document; use more tokens, or documents that are shorter"
        )
    inputs, error = x.double(), (x - x_hat).double()
    if fit_intercept:
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    norm = error.square().sum(-1, keepdim=True)
    predicted = inputs @ _least_squares(inputs[~test], torch.cat([error, norm], dim=1)[~test])
    linear, predicted_norm = predicted[:, :-1], predicted[:, -1:]
    held_x, held_groups = x[test].double(), groups[test]

    def r2(truth: Tensor, guess: Tensor, reduce: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
        return _r2(truth[test], guess[test], held_groups, reduce=reduce, seed=seed)

    return Decomposition(
        linear_error=linear.to(x.dtype),
        nonlinear_error=(error - linear).to(x.dtype),
        fvu=metrics.fvu(held_x, held_x - error[test], groups=held_groups),
        fvu_nonlinear=metrics.fvu(held_x, held_x - (error - linear)[test], groups=held_groups),
        r2_vector=r2(error, linear, lambda residual, total: (1 - residual / total).mean(-1)),
        r2_vector_pooled=r2(error, linear, lambda residual, total: 1 - residual.sum(-1) / total.sum(-1)),
        r2_norm=r2(norm, predicted_norm, lambda residual, total: (1 - residual / total).mean(-1)),
        fit_intercept=fit_intercept,
        n_train=n_train,
        n_test=n_test,
    )


def _held_out(groups: Int[Tensor, " n"], train_fraction: float, seed: int) -> Bool[Tensor, " n"]:
    """Rows of the documents that the probe never sees, so that neighbours in a text do not leak."""
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction is {train_fraction}; it must lie between 0 and 1")
    order = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(seed))
    return torch.isin(groups, order[round(train_fraction * len(order)) :])


def _least_squares(inputs: Float[Tensor, "n p"], targets: Float[Tensor, "n q"]) -> Float[Tensor, "p q"]:
    """Normal equations in float64; the pseudo-inverse takes directions without any variance out."""
    return torch.linalg.pinv(inputs.T @ inputs, hermitian=True, rtol=1e-12) @ (inputs.T @ targets)


def _r2(
    truth: Float[Tensor, "n q"],
    guess: Float[Tensor, "n q"],
    groups: Int[Tensor, " n"],
    *,
    reduce: Callable[[Float[Tensor, "m q"], Float[Tensor, "m q"]], Float[Tensor, " m"]],
    seed: int,
) -> Estimate:
    """R² about the mean, and its standard error from resampled groups."""
    names, index = torch.unique(groups, return_inverse=True)

    def by_group(values: Float[Tensor, "n q"]) -> Float[Tensor, "groups q"]:
        return values.new_zeros(len(names), values.shape[1]).index_add_(0, index, values)

    sums = [by_group(v) for v in ((truth - guess).square(), truth.square(), truth, torch.ones_like(truth))]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(names), (RESAMPLES, len(names)), generator=generator)
    counts = torch.zeros(RESAMPLES, len(names), dtype=truth.dtype)
    counts.scatter_add_(1, draws, torch.ones_like(counts))
    # The first row of weights is the sample itself.
    weights = torch.cat([torch.ones(1, len(names), dtype=truth.dtype), counts])
    residual, squares, total, n = (weights @ s for s in sums)
    values = reduce(residual, squares - total.square() / n)
    spread = float(values[1:].std()) if len(names) > 1 else float("inf")
    return Estimate(float(values[0]), spread, len(names))
