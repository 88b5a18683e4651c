"""How well a linear map of x predicts the squared norms of x, SAE(x), the error and its two parts.

The paper's violin (norm_prediction_violin.py): the nonlinear part's norm is predicted clearly worse than the others',
which is what tells it from the rest. Where features have one active value each, all norms would be linear in x.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from saes.dark_matter.split.bootstrap import Resamples, Unexplained
from saes.dark_matter.split.decomposition import ErrorSplit
from saes.dark_matter.split.least_squares import NormalEquations
from saes.dark_matter.split.reconstructions import Block, Rows

VECTORS = ("x", "x_hat", "error", "linear", "nonlinear")


@dataclass(frozen=True, kw_only=True)
class NormPrediction:
    """By name of the vector, of ``VECTORS``."""

    r2: Mapping[str, Estimate]
    """R² of the squared norm from x, without intercept, held out."""
    norm_share: Mapping[str, Estimate]
    """Mean norm of ``linear`` and ``nonlinear`` over that of the error, held out; they add to more than 1."""
    squared_norms: Float[Tensor, "n vectors"]
    """The squared norm of each vector, of every row."""


def norm_prediction(rows: Rows, split: ErrorSplit, *, seed: int = 0) -> NormPrediction:
    """Fit on the rows that the split was fitted on, and judge on its held-out rows."""
    squared = torch.zeros(len(split.held), len(VECTORS), dtype=torch.float64)

    def targets(block: Block) -> Float[Tensor, "m vectors"]:
        error, linear = block.error, split.probe(block.x)
        vectors = (block.x.double(), block.x_hat.double(), error, linear, error - linear)
        squared[block.which] = torch.stack([vector.square().sum(-1) for vector in vectors], dim=1)
        return squared[block.which]

    equations = NormalEquations(rows.d, len(VECTORS))
    for block in rows.blocks(~split.held):
        equations.add(block.x, targets(block))
    fit = equations.solve(fit_intercept=False)
    resamples = Resamples(rows.documents, split.held, seed=seed)
    left = {name: Unexplained(resamples) for name in VECTORS}
    for block in rows.blocks(split.held):
        truth = targets(block)
        residual = truth - fit(block.x)
        for i, name in enumerate(VECTORS):
            left[name].add(truth[:, i : i + 1], residual[:, i : i + 1], block.which)
    norms, documents = squared[split.held].sqrt(), rows.documents[split.held]
    return NormPrediction(
        r2={name: unexplained.r2() for name, unexplained in left.items()},
        norm_share={
            name: metrics.ratio(norms[:, VECTORS.index(name)], norms[:, VECTORS.index("error")], groups=documents)
            for name in ("linear", "nonlinear")
        },
        squared_norms=squared,
    )
