"""Queries, keys and values in the output of one fused projection, in either layout, and back."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.models.families.family import Fusion


def split(
    fused: Shaped[Tensor, "*batch d"], number: int, *, fusion: Fusion, heads: int, key_value_heads: int
) -> Shaped[Tensor, "*batch head d_head"]:
    """The queries (0), keys (1) or values (2) in a fused projection's output; a projection of its own is all of one."""
    if fusion == "separate":
        return fused.unflatten(-1, (heads if number == 0 else key_value_heads, -1))
    if fusion == "stacked":
        return fused.unflatten(-1, (heads + 2 * key_value_heads, -1)).split([heads, *2 * [key_value_heads]], -2)[number]
    groups = fused.unflatten(-1, (key_value_heads, heads // key_value_heads + 2, -1))
    return groups[..., :-2, :].flatten(-3, -2) if number == 0 else groups[..., number - 3, :]


def embed(
    part: Float[Tensor, "*batch head d_head"], number: int, *, fusion: Fusion, heads: int, key_value_heads: int
) -> Float[Tensor, "*batch d"]:
    """The fused output that has ``part`` where :func:`split` would find it, and zeros elsewhere."""
    if fusion == "separate":
        return part.flatten(-2)
    whole = part.new_zeros(*part.shape[:-2], (heads + 2 * key_value_heads) * part.shape[-1])
    place = torch.arange(whole.shape[-1], device=part.device)
    at = split(place, number, fusion=fusion, heads=heads, key_value_heads=key_value_heads)
    return whole.index_copy(-1, at.flatten(), part.flatten(-2))
