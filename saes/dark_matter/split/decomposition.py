"""What an SAE misses, split in two: the part of its error that a linear map of the activation predicts, and the rest.

Engels, Riggs, Tegmark (arXiv 2410.14670). The error is ``e = x - x_hat``; the probe is ordinary least squares, without
intercept as theirs unless asked otherwise, fitted on some documents and judged on others:

    b* = argmin ||x b - e||²    linear error = x b*    nonlinear error = e - x b*    a* = argmin (x a - ||e||²)²

The nonlinear part is an upper bound on what the SAE itself introduced, never an estimate of it: features that it lacks
and that are more than dimensions, and noise in x, are only partly linear in x.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.terminal.short_repr import short_repr
from saes.dark_matter.split.bootstrap import Resamples, Unexplained
from saes.dark_matter.split.held_out import check_counts, held_out_rows
from saes.dark_matter.split.least_squares import LinearMap, NormalEquations
from saes.dark_matter.split.norm_baselines import norm_baselines
from saes.dark_matter.split.reconstructions import Block, Rows, RowsInMemory
from saes.dark_matter.split.split_by import SplitBy


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one probe does on the rows that it was not fitted on.

    Example:
        >>> import saes, torch
        >>> x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> split = saes.decompose(x, x / 2 + 1)  # what is missed is x / 2 - 1: linear, up to a constant
        >>> {each.fit_intercept: round(each.r2_vector.value, 2) for each in split.figures}
        {False: -3.13, True: 1.0}
    """

    fit_intercept: bool
    """Whether the probe has an intercept."""
    ridge: float
    """Added to the diagonal of xᵀx, as scikit-learn's alpha."""
    fvu_nonlinear: Estimate
    """FVU(x, x_hat + linear error): an upper bound on the error that the SAE introduced."""
    r2_vector: Estimate
    """R² of the error vector from x, the mean over dimensions (as in the paper)."""
    r2_vector_pooled: Estimate
    """The same with all dimensions in one sum: large ones count more."""
    r2_norm: Estimate
    """R² of the squared error norm from x."""


@dataclass(frozen=True, kw_only=True)
class ErrorSplit:
    """The probe and its figures; every figure is measured on held-out rows, its error is over their documents, or where
    these are few over blocks of neighbouring rows.

    Example:
        >>> import saes, torch
        >>> from saes.dark_matter.split.reconstructions import RowsInMemory
        >>> x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> found = saes.split_error(RowsInMemory(x=x, x_hat=0.75 * x, documents=torch.arange(400)))
        >>> round(found.shrinkage, 3), round(found.off_shrinkage, 3)  # x / 4 is missed: nothing but shrinkage
        (0.25, 0.0)
        >>> found.n_train, found.n_test
        (240, 160)
    """

    probe: LinearMap
    """From x to the error: ``probe(x)`` is the linear error, for any rows."""
    fvu: Estimate
    """FVU(x, x_hat), about the mean."""
    l0: Estimate | None
    """Active latents a token, where they are known."""
    figures: tuple[Figures, ...]
    """Of the probe above first; then of the others that were asked for."""
    norm_baselines: Mapping[str, Estimate]
    """R² of the squared error norm from other things known of a token, see :mod:`~.norm_baselines`."""
    shrinkage: float
    """Mean diagonal of b*: what is left where the SAE only shrinks x is ``shrinkage`` times x, linear by definition."""
    off_shrinkage: float
    """||b* - shrinkage I|| / ||b*|| (Frobenius): 0 where the linear error is nothing but shrinkage."""
    held: Bool[Tensor, " n"]
    """Rows that were judged."""
    split_by: SplitBy
    """Whether whole documents or single tokens were held out."""
    n_train: int
    """How many rows the probe was fitted on."""
    n_test: int
    """How many rows it was judged on."""

    __repr__ = short_repr

    @property
    def fit_intercept(self) -> bool:
        """Whether the probe has one."""
        return self.figures[0].fit_intercept

    @property
    def fvu_nonlinear(self) -> Estimate:
        """See :class:`Figures`."""
        return self.figures[0].fvu_nonlinear

    @property
    def r2_vector(self) -> Estimate:
        """See :class:`Figures`."""
        return self.figures[0].r2_vector

    @property
    def r2_vector_pooled(self) -> Estimate:
        """See :class:`Figures`."""
        return self.figures[0].r2_vector_pooled

    @property
    def r2_norm(self) -> Estimate:
        """See :class:`Figures`."""
        return self.figures[0].r2_norm


@dataclass(frozen=True, kw_only=True)
class Decomposition(ErrorSplit):
    """The split of errors that are in memory.

    Example:
        >>> import saes, torch
        >>> draw = torch.Generator().manual_seed(0)
        >>> x, noise = (torch.randn(400, 8, generator=draw) for _ in range(2))
        >>> found = saes.decompose(x, 0.75 * x + 0.1 * noise)
        >>> torch.allclose(found.linear_error + found.nonlinear_error, 0.25 * x - 0.1 * noise, atol=1e-5)
        True
        >>> round(found.nonlinear_error.std().item(), 2)  # the noise
        0.1
    """

    linear_error: Float[Tensor, "n d"]
    """The probe's prediction of the error, for every row."""
    nonlinear_error: Float[Tensor, "n d"]
    """What the probe leaves: the two parts add up to the error."""

    __repr__ = short_repr


def decompose(
    x: Float[Tensor, "n d"],
    x_hat: Float[Tensor, "n d"],
    *,
    documents: Int[Tensor, " n"] | None = None,
    fit_intercept: bool = False,
    ridge: float = 0.0,
    split_by: SplitBy = "document",
    train_fraction: float = 0.6,
    seed: int = 0,
    tokens: Int[Tensor, " n"] | None = None,
    positions: Int[Tensor, " n"] | None = None,
    loss: Float[Tensor, " n"] | None = None,
    l0: Int[Tensor, " n"] | None = None,
) -> Decomposition:
    """Split the errors of reconstructions that are in memory; see :func:`split_error`.

    Args:
        x: Activations.
        x_hat: The SAE's reconstructions of them.
        documents: Of each row; without them every row stands for itself.
        tokens: Of each row, for the baselines of the norm; so are the next three.
        positions: Of each row.
        loss: Of each row, nats.
        l0: Of each row.

    Example:
        >>> import saes, torch
        >>> x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> found = saes.decompose(x, x / 2)  # an error that x predicts
        >>> round(found.r2_vector.value, 3)
        1.0
    """
    rows = RowsInMemory(
        x=x,
        x_hat=x_hat,
        documents=torch.arange(len(x)) if documents is None else documents,
        positions=positions,
        l0=l0,
    )
    split = split_error(
        rows,
        fit_intercept=fit_intercept,
        ridges=(ridge,),
        split_by=split_by,
        train_fraction=train_fraction,
        seed=seed,
        tokens=tokens,
        positions=positions,
        loss=loss,
    )
    linear, error = split.probe(x), x.double() - x_hat.double()
    return Decomposition(**vars(split), linear_error=linear.to(x.dtype), nonlinear_error=(error - linear).to(x.dtype))


def split_error(
    rows: Rows,
    *,
    fit_intercept: bool = False,
    ridges: Sequence[float] = (0.0,),
    split_by: SplitBy = "document",
    train_fraction: float = 0.6,
    seed: int = 0,
    tokens: Int[Tensor, " n"] | None = None,
    positions: Int[Tensor, " n"] | None = None,
    loss: Float[Tensor, " n"] | None = None,
) -> ErrorSplit:
    """Fit the probes on ``train_fraction`` of the documents and measure on the rest: each row is read once.

    Args:
        rows: What to split. Beside them O(d²) numbers are held, and a few for each token.
        fit_intercept: Of the probe that makes the parts; the figures of both kinds are measured.
        ridges: The first is the probe's; the others only have their figures measured.
        split_by: ``token`` for the paper's split, in which neighbours leak.
        train_fraction: Share of the documents (tokens) to fit on.
        seed: Of the split and of the bootstrap.
        tokens: Of each row, for the baselines of the norm; so are the next two.
        positions: Of each row.
        loss: Of each row, nats.

    Raises:
        ValueError: fewer than 5 d rows to fit on, nothing to judge on, or a row that is not finite.

    Example:
        >>> import saes, torch
        >>> from saes.dark_matter.split.reconstructions import RowsInMemory
        >>> x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> rows = RowsInMemory(x=x, x_hat=x / 2, documents=torch.arange(400))
        >>> round(saes.split_error(rows).r2_vector.value, 3)
        1.0
    """
    d = rows.d
    held = held_out_rows(rows.documents, by=split_by, train_fraction=train_fraction, seed=seed)
    n_train, n_test = check_counts(held, p=d)
    squared_norm, x_norm, l0 = (torch.full((len(held),), torch.nan, dtype=torch.float64) for _ in range(3))

    def targets(block: Block) -> Float[Tensor, "m targets"]:
        """Error and its squared norm; what the baselines need of each token is noted on the way."""
        norm = block.error.square().sum(-1)
        squared_norm[block.which], x_norm[block.which] = norm, block.x.double().norm(dim=-1)
        if block.l0 is not None:
            l0[block.which] = block.l0.double()
        return torch.cat([block.error, norm[:, None]], dim=1)

    equations = NormalEquations(d, d + 1)
    for block in rows.blocks(~held):
        equations.add(block.x, targets(block))
    fits = {
        (intercept, ridge): fit
        for intercept in (fit_intercept, not fit_intercept)
        for ridge, fit in zip(ridges, equations.path(tuple(ridges), fit_intercept=intercept), strict=True)
    }
    resamples = Resamples(rows.documents, held, seed=seed)
    whole = Unexplained(resamples)
    left = {kind: (Unexplained(resamples), Unexplained(resamples)) for kind in fits}
    for block in rows.blocks(held):
        truth = targets(block)
        whole.add(block.x, truth[:, :-1], block.which)
        for kind, (vector, norm) in left.items():
            residual = truth - fits[kind](block.x)
            vector.add(truth[:, :-1], residual[:, :-1], block.which)
            norm.add(truth[:, -1:], residual[:, -1:], block.which)
    probe = fits[fit_intercept, ridges[0]].targets(slice(d))
    shrinkage = probe.weights.diagonal().mean()
    off = probe.weights - shrinkage * torch.eye(d, dtype=torch.float64)
    classes = {"token": tokens, "position": positions}
    numbers = {"activation_norm": x_norm, "loss": loss, "l0": l0 if l0.isfinite().all() else None}
    return ErrorSplit(
        probe=probe,
        fvu=whole.fvu(),
        l0=metrics.mean(l0[held], groups=rows.documents[held]) if l0.isfinite().all() else None,
        figures=tuple(
            Figures(
                fit_intercept=intercept,
                ridge=ridge,
                fvu_nonlinear=vector.fvu(of=whole),
                r2_vector=vector.r2(),
                r2_vector_pooled=vector.r2_pooled(),
                r2_norm=norm.r2(),
            )
            for (intercept, ridge), (vector, norm) in left.items()
        ),
        norm_baselines=norm_baselines(
            squared_norm,
            held=held,
            classes={name: values for name, values in classes.items() if values is not None},
            numbers={name: values for name, values in numbers.items() if values is not None},
            resamples=resamples,
        ),
        shrinkage=float(shrinkage),
        off_shrinkage=float(off.norm() / probe.weights.norm().clamp_min(1e-300)),
        held=held,
        split_by=split_by,
        n_train=n_train,
        n_test=n_test,
    )
