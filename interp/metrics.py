"""How well one tensor stands for another: pure functions, each tested against a closed form.

Every estimate is a ratio of two sums (a mean is a sum over a count), with the standard error of a ratio estimator.
Tokens of one document are not independent, so pass ``groups`` (a document id a row) wherever it is known: the error
is then taken over documents. Fewer than ``MIN_GROUPS`` of them say next to nothing of their spread; then blocks of
neighbouring rows take their place (Künsch 1989), which says how far the figure would vary within such documents, and
the estimate says so.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

MIN_GROUPS = 5


@dataclass(frozen=True)
class Estimate(float):
    """A measured number with its uncertainty.

    It compares, computes and fills a format as the number does; what is computed from it is a plain float, since the
    errors of two estimates do not say that of their difference.

    Example:
        >>> import interp
        >>> str(interp.Estimate(value=0.5, standard_error=0.1, n=9))
        '0.5 ± 0.1'
    """

    value: float
    """The number itself, in the unit of what it estimates."""
    standard_error: float
    """Of the value; NaN when there is only one unit, since nothing is then known about the spread."""
    n: int
    """Independent units behind the standard error: documents where they were given, rows otherwise."""
    blocks: bool = False
    """The units are blocks of neighbouring rows, since there were fewer than ``MIN_GROUPS`` documents."""

    def __new__(cls, value: float, *_uncertainty: object, **_named: object) -> "Estimate":
        return super().__new__(cls, value)

    # Two estimates are equal when their errors are too; a plain number when it is the value.
    __ne__ = object.__ne__
    __hash__ = float.__hash__

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.error()}"

    def error(self, form: str = ".2g") -> str:
        """The standard error as it is printed behind the value."""
        return "(n = 1)" if math.isnan(self.standard_error) else f"± {self.standard_error:{form}}"

    def units(self, name: str) -> str:
        """What the standard error is over, where ``name`` says what usual units are."""
        return f"{self.n:,} " + (
            f"blocks of neighbouring tokens (fewer than {MIN_GROUPS} {name})" if self.blocks else name
        )


def independent_units(groups: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], bool]:
    """The unit of each row, numbered from 0, and whether units are blocks of rows and not the groups themselves.

    With fewer than ``MIN_GROUPS`` groups they are about √n blocks of √n rows that follow each other, if those are more:
    long against what neighbours share, and many.
    """
    names, index = torch.unique(groups, return_inverse=True)
    blocks = round(len(index) ** 0.5)
    if len(names) >= MIN_GROUPS or blocks <= len(names):
        return index, False
    units = torch.empty_like(index)
    units[index.argsort(stable=True)] = torch.arange(len(index), device=index.device) * blocks // len(index)
    return units, True


def ratio(
    numerator: Float[Tensor, " n"],
    denominator: Float[Tensor, " n"],
    *,
    groups: Int[Tensor, " n"] | None = None,
    blocks: bool = True,
) -> Estimate:
    """sum(numerator) / sum(denominator), standard error by the delta method over groups (rows without them).

    ``blocks``: few groups give way to blocks of rows, which stand in the order of their text. False where groups are no
    documents.

    Raises ValueError for empty input and where the denominator adds up to zero.
    """
    a, b = numerator.double(), denominator.double()
    in_blocks = False
    if groups is not None:
        index, in_blocks = independent_units(groups) if blocks else (groups.unique(return_inverse=True)[1], False)
        a, b = (torch.zeros(len(index.unique()), dtype=torch.float64).index_add_(0, index, v) for v in (a, b))
    if len(a) == 0 or b.sum() == 0:
        raise ValueError(f"nothing to divide by: {len(a)} units whose denominator adds up to 0; measure on varied data")
    value = a.sum() / b.sum()
    n = len(a)
    spread = ((a - value * b).square().sum() * n / (n - 1)).sqrt() / b.sum().abs() if n > 1 else torch.nan
    return Estimate(float(value), float(spread), n, in_blocks)


def mean(values: Float[Tensor, " n"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """Mean over rows, standard error over groups (rows without them)."""
    return ratio(values, torch.ones_like(values), groups=groups)


def fvu(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """Fraction of variance unexplained: sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, pooled over dimensions."""
    return ratio(squared_error(x, x_hat), squared_error(x, x.mean(0).expand_as(x)), groups=groups)


def explained_variance(unexplained: Estimate) -> Estimate:
    """1 - FVU, about the mean."""
    return replace(unexplained, value=1 - unexplained.value)


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
