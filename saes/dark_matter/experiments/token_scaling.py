"""Does one SAE's error at a token tell another's? The paper's per-token scaling (sae_power_laws_per_token.py)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.metrics import Estimate
from saes.dark_matter.split.bootstrap import Resamples, Unexplained, remaining_explained
from saes.dark_matter.split.norm_baselines import held_out_r2


@dataclass(frozen=True, kw_only=True)
class TokenScaling:
    """Held out, with intercept; norms, not squares."""

    r2: Estimate
    """R² of the larger SAE's error norm from the smaller one's."""
    remaining_explained: Estimate
    """Share of what that leaves which the norm of the smaller SAE's nonlinear error explains beside it."""


def token_scaling(
    smaller: Float[Tensor, " n"],
    smaller_nonlinear: Float[Tensor, " n"],
    larger: Float[Tensor, " n"],
    *,
    held: Bool[Tensor, " n"],
    documents: Int[Tensor, " n"],
    seed: int = 0,
) -> TokenScaling:
    """Predict the norm of the larger SAE's error at every token.

    Args:
        smaller: Error norms ``||x - x_hat||`` of the smaller SAE.
        smaller_nonlinear: Norms of its nonlinear part.
        larger: Error norms of the larger SAE, of the same tokens.
        held: Rows that are judged.
        documents: Of each row.
        seed: Of the bootstrap.
    """
    resamples = Resamples(documents, held, seed=seed)

    def left(*regressors: Tensor) -> Unexplained:
        return held_out_r2(
            torch.stack(regressors, dim=1).double(), larger, fitted=~held, judged=held, resamples=resamples
        )

    before = left(smaller)
    return TokenScaling(
        r2=before.r2(), remaining_explained=remaining_explained(before, left(smaller, smaller_nonlinear))
    )
