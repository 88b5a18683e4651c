# mypy: allow-untyped-defs
"""Triton: products of a tile, and only the tile's largest few leave it.

Accumulation is in float32 whatever the operands are. Triton's interpreter computes bfloat16 wrongly, so there the
operands are made float32 first (WIDEN), which changes no product. ``no_type_check``: no import hook that
checks shapes may wrap what Triton compiles.
"""

from typing import no_type_check

import triton  # type: ignore  # no stubs, and only in the extra gpu
import triton.language as tl  # type: ignore  # no stubs, and only in the extra gpu


@triton.jit
@no_type_check
def tile_candidates(
    x, table, bias, values, places, n, d, d_sae, keep,
    HAS_BIAS: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``values`` and ``places`` [n, tiles, keep]: the largest of ``x @ table.T + bias`` in each tile of latents.

    In falling order; among equals the first latent. A tile that holds NaN gives NaN.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.program_id(1)
    latent = tile * LATENTS + tl.arange(0, LATENTS)
    in_row, in_latent = row < n, latent < d_sae
    products = tl.zeros([ROWS, LATENTS], tl.float32)
    for start in range(0, d, WIDTH):
        column = start + tl.arange(0, WIDTH)
        in_column = column < d
        left = x + row.to(tl.int64)[:, None] * d + column[None, :]
        right = table + latent.to(tl.int64)[None, :] * d + column[:, None]
        a = tl.load(left, in_row[:, None] & in_column[None, :], 0.0)
        b = tl.load(right, in_latent[None, :] & in_column[:, None], 0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        products = tl.dot(a, b, products, input_precision=PRECISION)
    if HAS_BIAS:
        products += tl.load(bias + latent, in_latent, 0.0).to(tl.float32)[None, :]
    is_nan = products != products
    any_nan = tl.max(is_nan.to(tl.int32), axis=1) > 0
    products = tl.where(in_latent[None, :] & ~is_nan, products, float("-inf"))
    out = (row.to(tl.int64) * tl.num_programs(1) + tile) * keep
    for slot in range(keep):
        best = tl.max(products, axis=1)
        place = tl.min(tl.where(products == best[:, None], latent[None, :], d_sae - 1), axis=1)
        tl.store(values + out + slot, tl.where(any_nan, float("nan"), best), in_row)
        tl.store(places + out + slot, place, in_row)
        products = tl.where(latent[None, :] == place[:, None], float("-inf"), products)
