"""Does the norm of the latents fit the norm of the activation: epsilon_LBO and the ZF plot (arXiv 2503.24277).

The activation z is raw, the features f those of ``feature_norm_squared``; every measured token counts, where the
paper takes the last of each sequence. Nothing here is a guarantee: for real dictionaries epsilon (h - 1) is far above
1, and the bound then says nothing.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from saes.evaluation.token_table import NormTable, epsilon_lbo

BANDS = (0.25, 0.5, 1.0)
"""Values of epsilon (h - 1) whose bounds the ZF plot shows, the paper's."""
ZF_POINTS = 2000
"""Tokens in the ZF plot at most, evenly spaced over the text."""
_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where ||f|| may lie against ||z|| for one epsilon: between two lines through the origin."""

    epsilon_h: float
    """epsilon (h - 1)."""
    epsilon: float
    """Coherence of decoder rows that the band allows."""
    lower_slope: float
    """1 / sqrt(1 + epsilon (h - 1))."""
    upper_slope: float | None
    """1 / sqrt(1 - epsilon (h - 1)); None where there is no upper bound."""
    inside: Estimate
    """Share of all tokens between the lines."""


@dataclass(frozen=True, kw_only=True)
class AFAQuality:
    """Figures over all measured tokens; errors over documents."""

    epsilon_lbo: Estimate
    """Smallest epsilon that a token's z and f allow, the mean over tokens with any feature. Lower is better. It holds
    the reconstruction error too, so it can exceed the dictionary's coherence, and is 0 by luck where norms agree."""
    epsilon_lbo_median: Estimate
    """What the paper ranks by."""
    epsilon_lbo_reconstruction: Estimate
    """With the reconstruction in place of z: a lower bound on the coherence of decoder rows and b_dec."""
    norm_ratio: Estimate
    """||f|| / ||z||, the mean over tokens."""
    under_activated: Estimate
    """Share of tokens with ||f|| < ||z||."""
    over_activated: Estimate
    """Share of tokens with ||f|| > ||z||."""
    bands: tuple[Band, ...]
    """Bands of the ZF plot, one for each epsilon."""
    z_norms: tuple[float, ...]
    """The ZF plot's abscissa: ||z|| of up to ``ZF_POINTS`` tokens."""
    f_norms: tuple[float, ...]
    """Its ordinate: ||f|| of the same tokens."""


def afa_quality(table: NormTable, *, d_sae: int) -> AFAQuality | None:
    """Figures and plot of a table; None where no token has a feature, so that nothing is defined."""
    some = table.where(table.f_squared > 0)
    if not len(some):
        return None
    epsilon = epsilon_lbo(some.z_squared, some.f_squared, d_sae=d_sae)
    shown = torch.linspace(0, len(table) - 1, min(ZF_POINTS, len(table))).long()
    z, f = table.z_squared.sqrt(), table.f_squared.sqrt()

    def share(mask: Bool[Tensor, " n"]) -> Estimate:
        return table.mean(mask.float())

    return AFAQuality(
        epsilon_lbo=some.mean(epsilon),
        epsilon_lbo_median=median(epsilon, groups=some.documents),
        epsilon_lbo_reconstruction=some.mean(epsilon_lbo(some.z_hat_squared, some.f_squared, d_sae=d_sae)),
        norm_ratio=table.mean(f / z.clamp_min(torch.finfo(z.dtype).tiny)),
        under_activated=share(f < z),
        over_activated=share(f > z),
        bands=tuple(
            Band(
                epsilon_h=c,
                epsilon=c / max(1, d_sae - 1),
                lower_slope=1 / math.sqrt(1 + c),
                upper_slope=1 / math.sqrt(1 - c) if c < 1 else None,
                inside=share((table.z_squared - table.f_squared).abs() <= c * table.f_squared),
            )
            for c in BANDS
        ),
        z_norms=tuple(z[shown].tolist()),
        f_norms=tuple(f[shown].tolist()),
    )


def median(values: Float[Tensor, " n"], *, groups: Int[Tensor, " n"], seed: int = 0) -> Estimate:
    """Median over rows (the lower of two in the middle), standard error from 200 bootstrap resamples of the groups, or
    where they are few of blocks of rows."""
    ordered, order = values.double().sort()
    units, blocks = metrics.independent_units(groups)
    index, count = units[order], int(units.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(_RESAMPLES if count > 1 else 0):
        times = torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count)
        below = times[index].cumsum(0)
        found.append(ordered[torch.searchsorted(below, (below[-1] + 1) // 2)])
    spread = float(torch.stack(found).std()) if found else math.nan
    return Estimate(float(ordered[(len(ordered) - 1) // 2]), spread, count, blocks)
