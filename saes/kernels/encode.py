"""The encoder's affine map, differentiable at the selected entries alone.

Forward, ``top`` selects without keeping a dense [batch, d_sae] matrix; variants that must see every entry have
``dense``. Backward, with few entries selected in each row, the gradients of W_enc and of the input are sums of a few
rows, not two more dense products; and b_dec, which moves every row alike, takes one matrix-vector product (Gao et al.
2024, appendix D).
"""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from saes.kernels.backend import backend_for

DENSE_ABOVE = 1 / 16
"""Share of entries selected above which dense products win."""


class PreActivations:
    """Pre-activations of a batch: all of them without gradient, any of them with.

    They are ``dense``, or else (x - b_dec) @ W_enc + b_enc, each bias only where given; then the gradient flows to all.
    """

    def __init__(
        self,
        dense: Float[Tensor, "*batch d_sae"] | None = None,
        *,
        x: Float[Tensor, "*batch d_in"] | None = None,
        W_enc: Float[Tensor, "d_in d_sae"] | None = None,
        b_enc: Float[Tensor, " d_sae"] | None = None,
        b_dec: Float[Tensor, " d_in"] | None = None,
    ) -> None:
        self._x, self._W_enc, self._b_enc, self._b_dec = x, W_enc, b_enc, b_dec
        if dense is not None:
            self.dense = dense

    @cached_property
    @torch.no_grad()
    def dense(self) -> Float[Tensor, "*batch d_sae"]:
        """All of them, computed once."""
        assert self._x is not None
        return functional.linear(*self._operands(self._x))

    def at(self, indices: Int[Tensor, "*batch k_max"]) -> Float[Tensor, "*batch k_max"]:
        """Those at ``indices``."""
        return self.differentiable(self.dense.gather(-1, indices), indices)

    def top(self, k: int) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        """The ``k`` largest of each row, in any order, and their indices."""
        if self._x is None:
            values, indices = self.dense.topk(k, dim=-1, sorted=False)
            return values, indices
        shape = (*self._x.shape[:-1], k)
        with torch.no_grad():
            x, table, bias = self._operands(self._x.reshape(-1, self._x.shape[-1]))
            values, indices = backend_for(table).top(x, table, bias, k)
        indices = indices.reshape(shape)
        return self.differentiable(values.reshape(shape), indices), indices

    def _operands(self, x: Float[Tensor, "*n d_in"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Centred inputs, W_enc transposed and b_enc, in the dtype that products are asked for in."""
        assert self._W_enc is not None
        x, table, bias = x if self._b_dec is None else x - self._b_dec, self._W_enc.T, self._b_enc
        if not torch.is_autocast_enabled(x.device.type):
            return x, table, bias
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), table.to(dtype), None if bias is None else bias.to(dtype)

    def differentiable(
        self, values: Float[Tensor, "*batch k_max"], indices: Int[Tensor, "*batch k_max"]
    ) -> Float[Tensor, "*batch k_max"]:
        """``values``, which must be the entries at ``indices``, with their gradient."""
        if self._x is None:
            return values
        k = indices.shape[-1]
        flat = _At.apply(
            self._x.reshape(-1, self._x.shape[-1]),
            self._W_enc,
            self._b_enc,
            self._b_dec,
            values.reshape(-1, k),
            indices.reshape(-1, k).contiguous(),
        )
        return flat.reshape(indices.shape)


def pre_activations(
    x: Float[Tensor, "*batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"] | None,
    b_dec: Float[Tensor, " d_in"] | None,
) -> PreActivations:
    """(x - b_dec) @ W_enc + b_enc, each bias only where given."""
    return PreActivations(x=x, W_enc=W_enc, b_enc=b_enc, b_dec=b_dec)


class _At(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor | None, b_dec: Tensor | None, values: Tensor, indices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc, b_dec, indices)
        ctx.set_materialize_grads(False)
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 6
        x, W_enc, b_dec, indices = ctx.saved_tensors
        table = W_enc.T
        gradient = gradient.to(table.dtype)
        centred = (x if b_dec is None else x - b_dec).to(table.dtype)
        of_latents = _sums(indices.flatten(), gradient.flatten(), len(table))
        of_rows = None
        if indices.shape[1] > DENSE_ABOVE * len(table):
            scattered = gradient.new_zeros(len(x), len(table)).scatter_add_(-1, indices, gradient)
            of_table = scattered.T @ centred
            if ctx.needs_input_grad[0]:
                of_rows = scattered @ table
        else:
            backend = backend_for(table)
            of_table = backend.sum_by_latent(indices, gradient, centred, len(table))
            if ctx.needs_input_grad[0]:
                of_rows = backend.gather_sum(indices, gradient, table)
        of_b_dec = -(W_enc @ of_latents) if b_dec is not None else None
        of_b_enc = of_latents if ctx.needs_input_grad[2] else None
        return of_rows, of_table.T, of_b_enc, of_b_dec, None, None


def _sums(indices: Int[Tensor, " slots"], values: Float[Tensor, " slots"], d_sae: int) -> Float[Tensor, " d_sae"]:
    """For each latent the sum of its slots' values, added in the same order every time.

    On a GPU ``index_add_`` adds in whatever order threads arrive, so that a run would not end with the same bits twice;
    ``index_put_`` sorts the slots first.
    """
    sums = values.new_zeros(d_sae)
    return (
        sums.index_put_((indices,), values, accumulate=True) if values.is_cuda else sums.index_add_(0, indices, values)
    )
