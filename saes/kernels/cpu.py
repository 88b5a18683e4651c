"""The products on a CPU: sums of a few rows by ``embedding_bag``, and a top-k that never sees the whole batch at once.

Encoding goes through the batch in blocks of rows, so that products stay near the cache and their memory is used again.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saes.kernels import cpu_groups as groups
from saes.kernels.cpu_pairs import pair_dot
from saes.kernels.cpu_screen import Screen

BLOCK = 1 << 23
"""Products computed at a time."""


def top(
    x: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d_sae"] | None, k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """See ``saes.kernels.backend.Backend``."""
    d_sae = len(table)
    blocks = x.split(max(1, BLOCK // d_sae))
    screen = Screen.of(table, bias, rows=len(blocks[0]), k=k) if Screen.pays(x, table, k) else None
    products: Tensor | None = None
    found = []
    for block in blocks:
        best = None if screen is None else screen.top(block)
        if best is None:
            if products is None:
                products = groups.room(len(blocks[0]), d_sae, k, x.dtype)
            here = products[: len(block)]
            into = groups.latents_of(here, d_sae)
            torch.mm(block, table.T, out=into) if bias is None else torch.addmm(bias, block, table.T, out=into)
            best = groups.largest(here, k)
        found.append(best)
    values, indices = zip(*found, strict=True)
    return torch.cat(values), torch.cat(indices)


def gather_sum(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], table: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n d"]:
    """See ``saes.kernels.backend.Backend``."""
    return functional.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")


def gather_dot(
    indices: Int[Tensor, "n k"], rows: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n k"]:
    """See ``saes.kernels.backend.Backend``."""
    return pair_dot(torch.arange(len(rows)).repeat_interleave(indices.shape[1]), indices.flatten(), rows, table).view(
        indices.shape
    )


def sum_by_latent(
    indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: Float[Tensor, "n d"], d_sae: int
) -> Float[Tensor, "d_sae d"]:
    """See ``saes.kernels.backend.Backend``."""
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
