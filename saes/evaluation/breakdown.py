"""The same figures of parts of the text: by position, and with and without the tokens of massive norm."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from saes.evaluation.token_table import TokenTable, epsilon_lbo


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of some tokens, errors over their documents."""

    tokens: int
    """How many tokens they are of."""
    fvu: Estimate | None
    """Their squared error over their squared distance from the mean of ordinary (not massive) tokens. Not from their
    own mean: the first tokens of rows may all be the same, and have no variance. None where there is no distance."""
    cosine: Estimate
    """Mean cosine of the activation with its reconstruction."""
    l0: Estimate
    """Active latents of a token, the mean."""
    epsilon_lbo: Estimate | None
    """As ``AFAQuality.epsilon_lbo``; None where no token has a feature."""
    ce_clean: Estimate | None
    """None where none of the tokens predicts one."""
    ce_difference: Estimate | None
    """CE with the SAE spliced in minus CE clean, of the tokens that these predict."""


@dataclass(frozen=True, kw_only=True)
class AtPositions:
    """Figures of the tokens at some positions of their rows, ``first`` to ``last``, both included."""

    first: int
    """First position of these tokens in their rows."""
    last: int
    """Last position of these tokens in their rows."""
    figures: Figures
    """The figures of these tokens."""


def figures(table: TokenTable, *, d_sae: int, massive_stay: bool = False) -> Figures:
    """Figures of all tokens of ``table``, one at least; ``massive_stay``: those of a splice that leaves massive tokens
    of the text as they are."""
    some, predicting = table.where(table.f_squared > 0), table.where(table.predicts)
    spliced = predicting.ce_ordinary if massive_stay else predicting.ce_spliced
    epsilon = epsilon_lbo(some.z_squared, some.f_squared, d_sae=d_sae)
    return Figures(
        tokens=len(table),
        fvu=_ratio(table.error, table.variance_ordinary, table),
        cosine=table.mean(table.cosine),
        l0=table.mean(table.l0),
        epsilon_lbo=_mean(epsilon, some),
        ce_clean=_mean(predicting.ce_clean, predicting),
        ce_difference=_mean(spliced - predicting.ce_clean, predicting),
    )


def by_position(table: TokenTable, *, d_sae: int) -> tuple[AtPositions, ...]:
    """Figures of positions 0, 1, 2-3, 4-7, 8-15 and so on, those that have tokens."""
    parts = []
    for first, last in _buckets(int(table.positions.max())):
        mask = (table.positions >= first) & (table.positions <= last)
        if mask.any():
            parts.append(AtPositions(first=first, last=last, figures=figures(table.where(mask), d_sae=d_sae)))
    return tuple(parts)


def without_massive(table: TokenTable, *, d_sae: int) -> Figures:
    """Figures of ordinary tokens in a text whose massive tokens stay clean."""
    return figures(table.where(~table.massive), d_sae=d_sae, massive_stay=True)


def only_massive(table: TokenTable, *, d_sae: int) -> Figures | None:
    """Figures of the massive tokens; None where there is none."""
    return figures(table.where(table.massive), d_sae=d_sae) if table.massive.any() else None


def _buckets(last: int) -> list[tuple[int, int]]:
    starts = [0, *(2**i for i in range(last.bit_length()))]
    return [(first, min(last, after - 1)) for first, after in zip(starts, [*starts[1:], last + 1], strict=True)]


def _mean(values: Float[Tensor, " n"], table: TokenTable) -> Estimate | None:
    return table.mean(values) if len(table) else None


def _ratio(numerator: Float[Tensor, " n"], denominator: Float[Tensor, " n"], table: TokenTable) -> Estimate | None:
    return metrics.ratio(numerator, denominator, groups=table.documents) if torch.any(denominator > 0) else None
