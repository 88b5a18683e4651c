"""Products of single pairs of rows on a CPU, without gathering them first."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SUM = 0  # the mode of embedding_bag whose backward this is


def pair_dot(
    rows: Int[Tensor, " pairs"],
    latents: Int[Tensor, " pairs"],
    x: Float[Tensor, "n d"],
    table: Float[Tensor, "d_sae d"],
) -> Float[Tensor, " pairs"]:
    """``x[rows] * table[latents]``, summed over the last dimension.

    It is the gradient of ``embedding_bag`` to its weights, which PyTorch computes pair by pair from where rows lie.
    """
    unused = rows[:0]  # offsets, which `rows` says already
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(x, table, latents, unused, rows, _SUM)
