"""Norms of latents as features of their decoder, and the smallest quasi-orthogonality that they allow (2503.24277).

Of a dictionary whose unit columns overlap by epsilon or less, h of them, any z = D f has
``| ||z||^2 - ||f||^2 | <= epsilon (h - 1) ||f||^2``. Here f are the latents scaled by their decoder rows' norms, with
||b_dec|| as one feature more, as in the paper's code. The divisor stays h - 1 = d_sae - 1.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saes.latents import Latents
from saes.sae import SAE


def feature_norm_squared(sae: SAE, latents: Latents, *, bias: bool = True) -> Float64[Tensor, "*batch"]:
    """||f||^2 of each row: squares of the latents times their decoder norms, and of ||b_dec|| unless ``bias`` is off.

    A skip connection is no feature.
    """
    scaled = latents.values.double() * sae.decoder_norms().double()[latents.indices]
    squared = scaled.square().sum(-1)
    return squared + sae.b_dec.double().square().sum() if bias else squared


def epsilon_lbo(
    z_squared: Float[Tensor, "*batch"], f_squared: Float[Tensor, "*batch"], *, d_sae: int
) -> Float[Tensor, "*batch"]:
    """| ||z||^2 - ||f||^2 | / ((d_sae - 1) ||f||^2) of each row: infinite where only f is zero, 0 where z is too."""
    gap = (z_squared - f_squared).abs()
    return torch.where(gap == 0, 0.0, gap / (max(1, d_sae - 1) * f_squared))
