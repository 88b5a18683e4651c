"""Latents whose decoder rows point the same way."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from saes.sae import SAE

_CHUNK = 64


@torch.no_grad()
def nearest_latents(sae: SAE, latents: Sequence[int], *, k: int = 8) -> list[tuple[tuple[int, float], ...]]:
    """For each of ``latents`` the ``k`` others with the largest cosine of decoder rows, and that cosine."""
    rows = functional.normalize(sae.W_dec.float(), dim=-1)
    k = min(k, sae.d_sae - 1)
    found = []
    for chunk in torch.tensor(list(latents), dtype=torch.int64, device=rows.device).split(_CHUNK):
        cosines = rows[chunk] @ rows.T
        cosines[torch.arange(len(chunk)), chunk] = -torch.inf
        values, indices = cosines.topk(k, dim=-1)
        for numbers, similarities in zip(indices.tolist(), values.tolist(), strict=True):
            found.append(tuple(zip(numbers, similarities, strict=True)))
    return found
