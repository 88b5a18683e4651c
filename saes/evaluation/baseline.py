"""What a text's activations are compared with: their mean, and the norm above which a token is massive."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.tokens.batches import measured, row_batches
from interp.tokens.token_rows import TokenRows

MASSIVE_TIMES = 10.0
"""A token is massive where its activation's norm is above this many times the median norm, as in ``Masks``."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Means are of the SAE's target (its input, except in a transcoder), norms of its input."""

    mean: Float[Tensor, " d_out"]
    ordinary_mean: Float[Tensor, " d_out"]
    """Without massive tokens: a few of them can move the mean further than all others spread."""
    massive_norm: float
    d_in: int


@torch.no_grad()
def reference(
    model: Any, rows: TokenRows, site: Site, target: Site, *, count: int, batch_rows: int, first_position: int
) -> Reference:
    """From one pass over the first ``count`` rows, and a second where there are massive tokens."""
    device = next(model.parameters()).device

    def run(limit: float) -> tuple[Float[Tensor, " d_out"], list[Float[Tensor, " n"]], int]:
        """Mean of tokens whose norm is ``limit`` or less, all norms, and the input's width."""
        sums, norms, n, width = [], [], 0, 0
        for ids, documents in row_batches(rows, count, batch_rows, device=device):
            found = capture(model, ids, [site, target], attention_mask=documents >= 0)
            kept = measured(documents, first_position)
            norm = found[site].float().norm(dim=-1)[kept]
            below = norm <= limit
            sums.append(found[target][kept][below].double().sum(0))
            n, width = n + int(below.sum()), found[site].shape[-1]
            norms.append(norm.cpu())
        return (torch.stack(sums).sum(0) / n).float(), norms, width

    mean, parts, width = run(math.inf)
    norms = torch.cat(parts)
    limit = MASSIVE_TIMES * float(norms.median())
    ordinary = run(limit)[0] if bool((norms > limit).any()) else mean
    return Reference(mean=mean, ordinary_mean=ordinary, massive_norm=limit, d_in=width)
