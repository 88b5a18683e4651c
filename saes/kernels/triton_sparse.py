# mypy: allow-untyped-defs
"""Triton: sums and products of the few rows that latents select, accumulated in float32.

``no_type_check``: no import hook that checks shapes may wrap what Triton compiles.
"""

from typing import no_type_check

import triton  # type: ignore  # no stubs, and only in the extra gpu
import triton.language as tl  # type: ignore  # no stubs, and only in the extra gpu


@triton.jit
@no_type_check
def weighted_sum(indices, weights, table, out, k, d, WIDTH: tl.constexpr):
    """``out`` [n, d]: for each row the weighted sum of the table's rows at ``indices`` [n, k]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], tl.float32)
    for slot in range(k):
        latent = tl.load(indices + row * k + slot)
        weight = tl.load(weights + row * k + slot).to(tl.float32)
        read = tl.where(weight != 0.0, d, 0)  # nothing of empty slots, whose weight is 0
        total += weight * tl.load(table + latent * d + column, column < read, 0.0).to(tl.float32)
    tl.store(out + row * d + column, total.to(out.dtype.element_ty), column < d)


@triton.jit
@no_type_check
def pair_dot(indices, rows, table, out, k, d, SLOTS: tl.constexpr, WIDTH: tl.constexpr):
    """``out`` [n, k]: products of each row [n, d] with the table's rows at its ``indices`` [n, k]."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * SLOTS + tl.arange(0, SLOTS)
    latent = tl.load(indices + row * k + slot, slot < k, 0)
    total = tl.zeros([SLOTS], tl.float32)
    for start in range(0, d, WIDTH):
        column = start + tl.arange(0, WIDTH)
        mine = tl.load(rows + row * d + column, column < d, 0.0).to(tl.float32)
        inside = (slot < k)[:, None] & (column < d)[None, :]
        theirs = tl.load(table + latent[:, None] * d + column[None, :], inside, 0.0).to(tl.float32)
        total += tl.sum(theirs * mine[None, :], axis=1)
    tl.store(out + row * k + slot, total.to(out.dtype.element_ty), slot < k)


@triton.jit
@no_type_check
def segment_sum(tokens, weights, begins, rows, out, d, SLOTS: tl.constexpr, WIDTH: tl.constexpr):
    """``out`` [d_sae, d]: latent i sums weight times row over the slots ``begins[i]`` to ``begins[i + 1]``.

    One program has a latent (and some columns) to itself: no atomics, the same bits every time.
    """
    latent = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    begin, end = tl.load(begins + latent), tl.load(begins + latent + 1)
    total = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, end, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        token = tl.load(tokens + slot, slot < end, 0)
        weight = tl.load(weights + slot, slot < end, 0.0).to(tl.float32)
        inside = (slot < end)[:, None] & (column < d)[None, :]
        row = tl.load(rows + token[:, None] * d + column[None, :], inside, 0.0).to(tl.float32)
        total += tl.sum(weight[:, None] * row, axis=0)
    tl.store(out + latent * d + column, total.to(out.dtype.element_ty), column < d)
