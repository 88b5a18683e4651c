"""The largest k of thousands of values by the maxima of groups: the k groups with the largest maxima hold them all.

Every member of another group is at most its group's maximum, and the k maxima chosen before it are at least that.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def room(rows: int, d_sae: int, k: int, dtype: torch.dtype) -> Float[Tensor, "rows size groups"]:
    """Memory for products in groups, where latent i is member i // groups of group i % groups.

    Groups are about as many as the values in k of them. Room behind the last latent holds -inf.
    """
    size = 1 << int(math.log2(d_sae / k) / 2)
    groups = -(-d_sae // size)
    products = torch.empty(rows, size, groups, dtype=dtype)
    products.flatten(1)[:, d_sae:] = -torch.inf
    return products


def latents_of(products: Float[Tensor, "rows size groups"], d_sae: int) -> Float[Tensor, "rows {d_sae}"]:
    """The part of the room that holds latents, as a matrix to multiply into."""
    return products.flatten(1)[:, :d_sae]


def largest(
    products: Float[Tensor, "rows size groups"], k: int
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """The k largest values of each row, in any order, and their latents."""
    _, size, n_groups = products.shape
    if size == 1:
        values, latents = products.flatten(1).topk(k, sorted=False)
        return values, latents
    chosen = products.amax(1).topk(k, sorted=False).indices
    members = products.gather(2, chosen[:, None].expand(-1, size, -1)).flatten(1)
    values, places = members.topk(k, sorted=False)
    return values, places // k * n_groups + chosen.gather(1, places % k)
