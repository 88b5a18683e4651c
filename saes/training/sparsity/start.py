"""Where latents start, from the first rows of the data: few of them active, at the size that rebuilds these rows best.

ReLU, Gated and JumpReLU start with as few latents active as they are to end with. Their fresh weights leave half of all
latents active, each with its whole projection: eight latents a dimension rebuild an activation four times over (an FVU
of 9 at 8 times as many latents as dimensions), and the first steps only undo that. So every latent begins where it is
rare: as many deviations above its mean as leave the number of active latents that is wanted. The distance is one for
all latents, so that none starts silent, however few rows are looked at.

Latents that are active together overlap, those of TopK too, and their whole projections rebuild too much: at k 32 an
FVU of 1.7. One factor on the encoder mends that, and leaves better SAEs and transcoders (``docs/sae-quality.md``).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.massive.massive_tokens import MASSIVE_TIMES
from saes.sae import SAE
from saes.selection import kth_largest

ENTRIES = 1 << 26
"""Most pre-activations that are looked at: of a wide SAE those of fewer rows."""
DEFAULT_L0 = 32.0
"""Active latents a token at the start where no number is asked for."""


@torch.no_grad()
def start_from(sae: SAE, x: Float[Tensor, "n d_in"], l0: float | None = None, *, sized: bool = True) -> None:
    """Set the weight that keeps latents silent so that about ``l0`` are active on a row of ``x``, and the size of the
    encoder, unless it is to keep its own (``sized``).

    ``l0`` is by default ``DEFAULT_L0``, at most a quarter of the latents. Nothing where the encoder does not start with
    unit norm. ``x`` is in the units that training shows.
    """
    if not sae.activation.unit_norm_encoder:
        return
    some = sae.centred(x[: max(1, ENTRIES // sae.d_sae)])
    norms = some.norm(dim=-1)
    rows = some[norms <= MASSIVE_TIMES * norms.median()]  # the others, where there are any, are all of the variance
    name = sae.activation.starts_sparse_by
    if name is not None:
        wanted = min(DEFAULT_L0 if l0 is None else l0, sae.d_sae / 4)
        level = _level(rows @ sae.W_enc, wanted)
        sae.get_parameter(name).copy_(level.clamp_min(0) if name == "threshold" else -level)
    if not sized:
        return
    sae.train()  # BatchTopK keeps k a row only there
    rebuilt = sae.written(sae.encode(rows + sae.b_dec if sae.subtract_b_dec else rows))[:, : sae.d_out]
    sae.eval()
    if sae.subtract_b_dec:  # decoder and encoder point alike
        size = (rebuilt * rows).sum() / rebuilt.square().sum()
    else:  # a transcoder's random rows: half the size of what they are to rebuild, whose entries are about 1
        size = (0.5 / rebuilt.square().mean().sqrt()).clamp(max=1)
    if size.isfinite() and size > 0:
        sae.W_enc.mul_(size)
        if name is not None:
            sae.get_parameter(name).mul_(size)


def _level(pre: Float[Tensor, "n d_sae"], wanted: float) -> Float[Tensor, " d_sae"]:
    """Each latent's mean plus so many of its deviations that ``wanted`` entries of a row are above."""
    mean, deviation = pre.mean(0), pre.std(0, correction=0)
    standard = (pre - mean).div_(deviation.clamp_min(torch.finfo(pre.dtype).tiny))
    return mean + deviation * kth_largest(standard, max(1, round(wanted * len(pre))))
