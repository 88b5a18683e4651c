"""The products on a GPU, in Triton: no [batch, d_sae] matrix exists.

Encoding keeps the few largest products of each tile of latents, more of them than a tile is likely to hold of a row's k
largest. The k largest of those are exact unless all that a tile kept are larger than the k-th: such rows, and there are
few, are multiplied again with as many kept as could matter.
"""

import math
import os

import torch
import triton  # type: ignore  # no stubs, and only in the extra gpu
from jaxtyping import Float, Int
from torch import Tensor

from saes.kernels.triton_encode import tile_candidates
from saes.kernels.triton_sparse import pair_dot, segment_sum, weighted_sum

ROWS, LATENTS, WIDTH = 64, 128, 32
"""A tile of products, and the width that is multiplied at a time."""
SLOTS = 16
"""Slots of a row, or of a latent, that are read at a time."""
COLUMNS = 512
"""Most columns of a row that one program sums."""


def top(
    x: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d_sae"] | None, k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """See ``saes.kernels.backend.Backend``."""
    x, table = x.contiguous(), table.contiguous()
    most = min(k, LATENTS)
    share = k / triton.cdiv(len(table), LATENTS)
    # Four standard deviations above the mean of a Poisson distribution.
    keep = min(most, math.ceil(share + 4 * share**0.5) + 1)
    values, indices, exact = _top_of_tiles(x, table, bias, k, keep)
    if keep < most and not bool(exact.all()):
        again = (~exact).nonzero().squeeze(-1)
        values[again], indices[again], _ = _top_of_tiles(x[again], table, bias, k, most)
    return values.to(x.dtype), indices


def gather_sum(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], table: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n d"]:
    """See ``saes.kernels.backend.Backend``."""
    (n, k), d = indices.shape, table.shape[1]
    out, width = table.new_empty(n, d), _width(d)
    grid = (n, triton.cdiv(d, width))
    if n:
        weighted_sum[grid](indices, weights, table.contiguous(), out, k, d, WIDTH=width)
    return out


def gather_dot(
    indices: Int[Tensor, "n k"], rows: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n k"]:
    """See ``saes.kernels.backend.Backend``."""
    (n, k), d = indices.shape, table.shape[1]
    out = table.new_empty(n, k)
    grid = (n, triton.cdiv(k, SLOTS))
    if n:
        pair_dot[grid](indices, rows, table.contiguous(), out, k, d, SLOTS=SLOTS, WIDTH=min(128, _width(d)))
    return out


def sum_by_latent(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: Float[Tensor, "n d"], d_sae: int
) -> Float[Tensor, "d_sae d"]:
    """See ``saes.kernels.backend.Backend``."""
    d, flat = rows.shape[1], indices.flatten()
    latents, order = flat.sort(stable=True)
    begins = torch.searchsorted(latents, torch.arange(d_sae + 1, device=flat.device))
    out, width = rows.new_empty(d_sae, d), min(128, _width(d))
    segment_sum[(d_sae, triton.cdiv(d, width))](
        order // indices.shape[1],
        weights.flatten()[order],
        begins,
        rows.contiguous(),
        out,
        d,
        SLOTS=SLOTS,
        WIDTH=width,
    )
    return out


def _top_of_tiles(
    x: Tensor, table: Tensor, bias: Tensor | None, k: int, keep: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Tensor]:
    """Values, indices, and whether they are certainly the k largest, from the ``keep`` largest of each tile."""
    (n, d), d_sae = x.shape, len(table)
    tiles = triton.cdiv(d_sae, LATENTS)
    candidates = torch.empty(n, tiles, keep, dtype=torch.float32, device=x.device)
    places = torch.empty(n, tiles, keep, dtype=torch.int32, device=x.device)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    single = x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    if n:
        tile_candidates[(triton.cdiv(n, ROWS), tiles)](
            x, table, bias, candidates, places, n, d, d_sae, keep,
            HAS_BIAS=bias is not None, WIDEN=interpreted, PRECISION="ieee" if single else "tf32",
            ROWS=ROWS, LATENTS=LATENTS, WIDTH=WIDTH,
        )  # fmt: skip
    values, chosen = candidates.flatten(1).topk(k, dim=-1, sorted=False)
    indices = places.flatten(1).gather(1, chosen).long()
    exact = (candidates[:, :, -1] <= values.amin(-1, keepdim=True)).all(-1)
    return values, indices, exact


def _width(d: int) -> int:
    return min(COLUMNS, triton.next_power_of_2(d))
