"""What the kernels compute, in plain PyTorch: dense products, in float32 at least. Slow, and the same on any device."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top(
    x: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d_sae"] | None, k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """See ``saes.kernels.backend.Backend``."""
    dense = _product(x, table.T)
    values, indices = (dense if bias is None else dense + bias).topk(k, dim=-1, sorted=False)
    return values.to(x.dtype), indices


def gather_sum(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], table: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n d"]:
    """See ``saes.kernels.backend.Backend``."""
    return _product(_dense(indices, weights, len(table)), table).to(table.dtype)


def gather_dot(
    indices: Int[Tensor, "n k"], rows: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n k"]:
    """See ``saes.kernels.backend.Backend``."""
    return _product(rows, table.T).gather(-1, indices).to(table.dtype)


def sum_by_latent(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: Float[Tensor, "n d"], d_sae: int
) -> Float[Tensor, "d_sae d"]:
    """See ``saes.kernels.backend.Backend``."""
    return _product(_dense(indices, weights, d_sae).T, rows).to(rows.dtype)


def _product(left: Float[Tensor, "n m"], right: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
    """In float32 at least, also where autocast would multiply, and answer, in bfloat16."""
    if left.is_meta:  # which autocast does not know
        return _wide(left) @ _wide(right)
    with torch.autocast(left.device.type, enabled=False):
        return _wide(left) @ _wide(right)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _dense(indices: Tensor, weights: Tensor, d_sae: int) -> Tensor:
    return _wide(weights).new_zeros(len(indices), d_sae).scatter_add_(-1, indices, _wide(weights))
