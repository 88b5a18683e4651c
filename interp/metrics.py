"""How well one tensor stands for another: pure functions, each tested against a closed form.

Every estimate is a ratio of two sums (a mean is a sum over a count), with the standard error of a ratio estimator.
Tokens of one document are not independent, so pass ``groups`` (a document id a row) wherever it is known: the error
is then taken over documents.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Estimate:
    """A measured number with its uncertainty."""

    value: float
    standard_error: float
    """Of the value; infinite when there is only one unit, since nothing is then known about the spread."""
    n: int
    """Independent units behind the standard error: documents where they were given, rows otherwise."""

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


def ratio(
    numerator: Float[Tensor, " n"], denominator: Float[Tensor, " n"], *, groups: Int[Tensor, " n"] | None = None
) -> Estimate:
    """sum(numerator) / sum(denominator), standard error by the delta method over groups (rows without them).

    Raises ValueError for empty input and where the denominator adds up to zero.
    """
    a, b = numerator.double(), denominator.double()
    if groups is not None:
        names, index = torch.unique(groups, return_inverse=True)
        a, b = (torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, v) for v in (a, b))
    if len(a) == 0 or b.sum() == 0:
        raise ValueError(f"nothing to divide by: {len(a)} units whose denominator adds up to 0; measure on varied data")
    value = a.sum() / b.sum()
    n = len(a)
    spread = ((a - value * b).square().sum() * n / (n - 1)).sqrt() / b.sum().abs() if n > 1 else torch.inf
    return Estimate(float(value), float(spread), n)


def mean(values: Float[Tensor, " n"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """Mean over rows, standard error over groups (rows without them)."""
    return ratio(values, torch.ones_like(values), groups=groups)


def fvu(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """Fraction of variance unexplained: sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, pooled over dimensions."""
    return ratio(squared_error(x, x_hat), squared_error(x, x.mean(0).expand_as(x)), groups=groups)


def explained_variance(unexplained: Estimate) -> Estimate:
    """1 - FVU, about the mean."""
    return Estimate(1 - unexplained.value, unexplained.standard_error, unexplained.n)


def squared_error(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """||x - x_hat||^2 of every row."""
    return (x - x_hat).square().sum(-1)


def mse(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """Squared error averaged over rows and dimensions."""
    return mean(squared_error(x, x_hat) / x.shape[-1], groups=groups)


def cosine(
    x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], *, groups: Int[Tensor, " n"] | None = None
) -> Estimate:
    """Mean cosine similarity of the rows (0 for a row of zeros)."""
    return mean(functional.cosine_similarity(x, x_hat, dim=-1), groups=groups)


def l0(latents: Float[Tensor, "n d_sae"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """Mean number of non-zero entries a row."""
    return mean((latents != 0).sum(-1).float(), groups=groups)


def cross_entropy(
    logits: Float[Tensor, "batch position vocab"], tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position-1"]:
    """Nats for every next token; the last position predicts nothing and is left out."""
    return functional.cross_entropy(logits[:, :-1].float().mT, tokens[:, 1:].long(), reduction="none")


def kl(clean_logits: Float[Tensor, "*batch vocab"], logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """KL(clean || other) of the next-token distributions, in nats a position."""
    clean, other = clean_logits.float().log_softmax(-1), logits.float().log_softmax(-1)
    return (clean.exp() * (clean - other)).sum(-1)


def ce_recovered(
    *,
    clean: Float[Tensor, " n"],
    spliced: Float[Tensor, " n"],
    ablated: Float[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
) -> Estimate:
    """(CE_ablated - CE_spliced) / (CE_ablated - CE_clean) from losses a token: 1 is as good as clean, 0 as ablated."""
    return ratio(ablated - spliced, ablated - clean, groups=groups)
