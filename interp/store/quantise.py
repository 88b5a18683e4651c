"""How activations are held on disk: three float dtypes as they are, and int8 with one scale a row."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

STORAGE: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
SCALE = ".scale"
"""Suffix of the tensor of scales that stands beside an int8 tensor."""
_LEVELS = 127


def check_storage(dtype: str) -> str:
    """``dtype``, if it is the name of one that can be written."""
    if dtype not in STORAGE:
        raise ValueError(f"dtype {dtype!r} is not one that activations are stored in: {', '.join(STORAGE)}")
    return dtype


def row_bytes(width: int, dtype: str) -> int:
    """Bytes on disk of one activation of ``width`` numbers."""
    return width * STORAGE[dtype].itemsize + (4 if dtype == "int8" else 0)


def encode(x: Float[Tensor, "n d"], dtype: str, *, name: str) -> dict[str, Tensor]:
    """Tensors to store under ``name``: finite numbers rounded to ``dtype``.

    int8 is round(x / scale) with scale = max |x| / 127 of each row, so that no number is off by more than half a scale.

    Raises:
        ValueError: a number is too large for ``dtype``; the message names it and the dtypes that hold it.
    """
    if dtype == "int8":
        wide = x.float()
        scale = wide.abs().amax(-1, keepdim=True) / _LEVELS
        # A row of zeros has scale 0; dividing by 1 leaves it zero.
        codes = (wide / torch.where(scale > 0, scale, 1.0)).round_().clamp_(-_LEVELS, _LEVELS)
        return {name: codes.to(torch.int8), name + SCALE: scale.squeeze(-1)}
    stored = x.to(STORAGE[dtype])
    if stored.dtype != x.dtype and not torch.isfinite(stored).all():
        limit = torch.finfo(stored.dtype).max
        raise ValueError(
            f"{name} has an activation of {x.abs().max().item():g}, and {dtype} holds at most {limit:g}: store it as"
            f" {'float32' if dtype == 'bfloat16' else 'bfloat16 or float32'}"
        )
    return {name: stored}


def decode(stored: Shaped[Tensor, "n d"], scale: Float[Tensor, " n"] | None) -> Float[Tensor, "n d"]:
    """Float32 activations; the same memory where they are stored so."""
    return stored.float() if scale is None else stored.float().mul_(scale[:, None])
