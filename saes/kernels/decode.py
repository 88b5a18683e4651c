"""The sum of the selected latents' decoder rows, whose gradients are as sparse as it is."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from saes.kernels.backend import backend_for


def decode(
    values: Float[Tensor, "*batch k_max"], indices: Int[Tensor, "*batch k_max"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "*batch d_out"]:
    """For each row the sum over its slots of value times decoder row, in the decoder's dtype."""
    shape, k_max = values.shape[:-1], values.shape[-1]
    values, indices = (slots.reshape(-1, k_max).contiguous() for slots in (values, indices))
    rows = _Decode.apply(values.to(W_dec.dtype), indices, W_dec)
    return rows.reshape(*shape, W_dec.shape[1])


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, W_dec)
        return backend_for(W_dec).gather_sum(indices, values, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, indices, W_dec = ctx.saved_tensors
        backend, gradient = backend_for(W_dec), gradient.contiguous()
        of_values = backend.gather_dot(indices, gradient, W_dec) if ctx.needs_input_grad[0] else None
        of_W_dec = backend.sum_by_latent(indices, values, gradient, len(W_dec)) if ctx.needs_input_grad[2] else None
        return of_values, None, of_W_dec
