"""ReLU, Gated and JumpReLU start with as few latents active as they are to end with.

Their fresh weights leave half of all latents active, each with its whole projection: eight latents a dimension rebuild
an activation four times over (an FVU of 9 at 8 times as many latents as dimensions), and the first steps only undo
that. So every latent begins where it is rare: as many deviations above its mean, on the first rows of the data, as
leave the number of active latents that is wanted. The distance is one for all latents, so that none starts silent,
however few rows are looked at. Then the latents are given a size: in an SAE that at which they rebuild these rows best.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.massive.massive_tokens import MASSIVE_TIMES
from saes.sae import SAE
from saes.selection import kth_largest

ENTRIES = 1 << 26
"""Most pre-activations that are looked at: of a wide SAE those of fewer rows."""
DEFAULT_L0 = 32
"""Active latents a token at the start where no number is asked for."""


@torch.no_grad()
def start_sparse(sae: SAE, x: Float[Tensor, "n d_in"], l0: float | None = None) -> None:
    """Set the weight that keeps latents silent so that about ``l0`` are active on a row of ``x``.

    ``l0`` is by default ``DEFAULT_L0``, at most a quarter of the latents. Nothing where the variant itself chooses how
    many are active. ``x`` is in the units that training shows.
    """
    name = sae.activation.starts_sparse_by
    if name is None:
        return
    some = sae.centred(x[: max(1, ENTRIES // sae.d_sae)])
    norms = some.norm(dim=-1)
    rows = some[norms <= MASSIVE_TIMES * norms.median()]  # the others, where there are any, are all of the variance
    wanted = min(DEFAULT_L0 if l0 is None else l0, sae.d_sae / 4)
    pre = rows @ sae.W_enc
    mean, deviation = pre.mean(0), pre.std(0, correction=0)
    standard = (pre - mean).div_(deviation.clamp_min(torch.finfo(pre.dtype).tiny))
    level = mean + deviation * kth_largest(standard, max(1, round(wanted * len(rows))))
    weight = sae.get_parameter(name)
    weight.copy_(level.clamp_min(0) if name == "threshold" else -level)
    rebuilt = sae.written(sae.encode(rows + sae.b_dec if sae.subtract_b_dec else rows))[:, : sae.d_out]
    if sae.subtract_b_dec:  # decoder and encoder point alike, and the latents overlap
        size = (rebuilt * rows).sum() / rebuilt.square().sum()
    else:  # a transcoder's random rows: half the size of what they are to rebuild, whose entries are about 1
        size = (0.5 / rebuilt.square().mean().sqrt()).clamp(max=1)
    sae.W_enc.mul_(size)
    weight.mul_(size)
