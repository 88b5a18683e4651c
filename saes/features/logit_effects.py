"""Which next tokens a latent raises and lowers by writing to the residual stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.bridge import Model
from interp.sites.site import Site
from saes.own_sites import is_transcoder
from saes.sae import SAE

WRITES_TO_THE_RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Kinds of sites whose activations are, or are added to, the residual stream."""
NOTE = (
    "W_dec @ W_U through the final norm's weight (and its centring, in a LayerNorm), without its division by the"
    " activation's size, which differs from token to token and scales all logits alike; later layers are left out."
)
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Token ids with their logit a unit of activation, up to the final norm's scale; exact, not estimated."""

    raised: tuple[tuple[int, float], ...]
    """Token ids and logits that rise the most, the largest first."""
    lowered: tuple[tuple[int, float], ...]
    """Token ids and logits that fall the most, the smallest first."""


@torch.no_grad()
def logit_effects(sae: SAE, model: Model, latents: Sequence[int], *, k: int = 10) -> list[Effects] | None:
    """The ``k`` most raised and most lowered tokens of each latent.

    None where the SAE does not write to the residual stream (a transcoder writes at its target site).
    """
    return effects_of(sae.W_dec[list(latents)], model, k=k) if writes_to_the_residual(sae) else None


def writes_to_the_residual(sae: SAE) -> bool:
    """Whether what it reconstructs is the residual stream, or is added to it."""
    site = sae.target_site or (None if is_transcoder(sae) else sae.site)
    return site is not None and Site.parse(site).kind in WRITES_TO_THE_RESIDUAL


@torch.no_grad()
def effects_of(rows: Float[Tensor, "n d"], model: Model, *, k: int = 10) -> list[Effects]:
    """The ``k`` most raised and most lowered tokens of each row that is added to the residual stream."""
    k = min(k, model.W_U.shape[1])
    found = []
    for logits in logits_of(rows, model):
        for high, low in zip(_pairs(logits, k, largest=True), _pairs(logits, k, largest=False), strict=True):
            found.append(Effects(raised=high, lowered=low))
    return found


def logits_of(rows: Float[Tensor, "n d"], model: Model) -> Iterator[Float[Tensor, "some vocab"]]:
    """What each row adds to every logit, some rows at a time."""
    W_U = model.W_U.float()
    for chunk in rows.split(_CHUNK):
        yield through_final_norm(model, chunk.float()) @ W_U


@torch.no_grad()
def through_final_norm(model: Model, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """What the final norm makes of directions, but for its division: centred in a LayerNorm, times its weight.

    The weight is read off the norm's output, since families keep it as w or as 1 + w.
    """
    d = directions.shape[1]
    probe = torch.ones(d, device=directions.device)
    probe[1::2] = -1
    probe -= probe.mean()
    probe /= probe.square().mean().sqrt()
    probe = probe.to(model.W_U.dtype)
    there, back = (model.ln_final(point[None, None])[0, 0].float() for point in (probe, -probe))
    weight = (there - back) / (2 * probe.float())
    centred = model.cfg.normalization_type.startswith("LN")
    return (directions - directions.mean(-1, keepdim=True) if centred else directions) * weight


def _pairs(logits: Float[Tensor, "n vocab"], k: int, *, largest: bool) -> list[tuple[tuple[int, float], ...]]:
    values, ids = logits.topk(k, dim=-1, largest=largest)
    return [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
