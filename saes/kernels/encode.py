"""The encoder's affine map, differentiable at the selected entries alone.

Forward there is one dense product, which nothing keeps. Backward, with few entries selected in each row, the gradients
of W_enc and of the input are sums of a few rows, not two more dense products; and b_dec, which moves every row alike,
takes one matrix-vector product (Gao et al. 2024, appendix D).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

DENSE_ABOVE = 1 / 16
"""Share of entries selected above which dense products win."""


@dataclass(frozen=True)
class PreActivations:
    """Pre-activations of a batch: all of them without gradient, any of them with."""

    dense: Float[Tensor, "*batch d_sae"]
    x: Float[Tensor, "*batch d_in"] | None = None
    W_enc: Float[Tensor, "d_in d_sae"] | None = None
    b_enc: Float[Tensor, " d_sae"] | None = None
    b_dec: Float[Tensor, " d_in"] | None = None
    """Subtracted from ``x``, where it is."""

    def at(self, indices: Int[Tensor, "*batch k_max"]) -> Float[Tensor, "*batch k_max"]:
        """Those at ``indices``; the gradient flows to x, W_enc, b_enc and b_dec."""
        if self.x is None or self.W_enc is None:
            return self.dense.gather(-1, indices)
        shape = indices.shape
        values = _At.apply(
            self.x.reshape(-1, self.x.shape[-1]),
            self.W_enc,
            self.b_enc,
            self.b_dec,
            self.dense.reshape(-1, self.dense.shape[-1]),
            indices.reshape(-1, shape[-1]),
        )
        return values.reshape(shape)


def pre_activations(
    x: Float[Tensor, "*batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"] | None,
    b_dec: Float[Tensor, " d_in"] | None,
) -> PreActivations:
    """(x - b_dec) @ W_enc + b_enc, each bias only where given."""
    with torch.no_grad():
        centred = x if b_dec is None else x - b_dec
        dense = functional.linear(centred, W_enc.T, b_enc)
    return PreActivations(dense, x, W_enc, b_enc, b_dec)


class _At(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor | None, b_dec: Tensor | None, dense: Tensor, indices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc, b_dec, indices)
        ctx.set_materialize_grads(False)
        return dense.gather(-1, indices)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 6
        x, W_enc, b_dec, indices = ctx.saved_tensors
        gradient = gradient.to(W_enc.dtype)
        centred = (x if b_dec is None else x - b_dec).to(W_enc.dtype)
        d_sae = W_enc.shape[1]
        of_latents = gradient.new_zeros(d_sae).index_add_(0, indices.flatten(), gradient.flatten())
        if indices.shape[1] > DENSE_ABOVE * d_sae:
            scattered = gradient.new_zeros(len(x), d_sae).scatter_add_(-1, indices, gradient)
            of_rows = functional.linear(scattered, W_enc) if ctx.needs_input_grad[0] else None
            of_encoder = (scattered.T @ centred).T
        else:
            of_encoder = sum_by_latent(indices, gradient, centred, d_sae).T
            of_rows = None
            if ctx.needs_input_grad[0]:
                of_rows = functional.embedding_bag(indices, W_enc.T, per_sample_weights=gradient, mode="sum")
        of_b_dec = -(W_enc @ of_latents) if b_dec is not None else None
        of_b_enc = of_latents if ctx.needs_input_grad[2] else None
        return of_rows, of_encoder, of_b_enc, of_b_dec, None, None


def sum_by_latent(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: Float[Tensor, "n d"], d_sae: int
) -> Float[Tensor, "d_sae d"]:
    """For each latent the weighted sum of the rows that selected it: the transpose of a decoder's sum."""
    flat = indices.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=d_sae)
    return functional.embedding_bag(
        order // indices.shape[1],
        rows,
        offsets=counts.cumsum(0) - counts,
        per_sample_weights=weights.flatten()[order],
        mode="sum",
    )
