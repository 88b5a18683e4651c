"""Exact selection over many values without sorting them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.distributed.group import ALONE, Group

SAMPLE = 1 << 16
"""Values looked at to guess a bound."""
GROUP = 32
"""Most values of a group whose maximum is looked at first."""
FIRST = 256
"""Values of each row that are put in order before all of them are."""


def kth_largest(values: Float[Tensor, "..."], k: int, group: Group = ALONE) -> Float[Tensor, ""]:
    """The k-th largest of all ``values``, of every process, exactly; several times faster than ``topk`` of all of them.

    An evenly spaced sample gives a bound that almost surely lies just below the answer; only values above it compete.
    Where the guess was too high, everything does that could win.
    """
    flat = values.reshape(-1)
    total = group.count(len(flat))
    if not 1 <= k <= total:
        raise ValueError(f"k is {k}; there are {total} values to choose among")
    sample = group.everywhere(flat[:: max(1, total // SAMPLE)])
    # A margin of four standard deviations of the number of winners that the sample holds.
    expected = k * len(sample) / total
    rank = min(len(sample), int(expected + 4 * expected**0.5) + 2)
    bound = sample.topk(rank).values[-1]
    candidates = group.everywhere(_at_least(flat, bound, k))
    if len(candidates) < k:
        candidates = group.everywhere(flat.topk(min(k, len(flat)), sorted=False).values)
    return candidates.topk(k, sorted=False).values.min() if k < len(candidates) else candidates.min()


def _at_least(flat: Float[Tensor, " n"], bound: Float[Tensor, ""], number: int) -> Float[Tensor, " chosen"]:
    """The values that reach ``bound``, about ``number`` of them: looked for in groups whose maximum does."""
    size = min(GROUP, len(flat) // (4 * number))
    if size < 2:
        return flat[flat >= bound]
    n_groups = len(flat) // size
    groups = flat[: size * n_groups].view(size, n_groups)
    found = groups.T[(groups.amax(0) >= bound).nonzero().squeeze(1)].flatten()
    competing = torch.cat([found, flat[size * n_groups :]])
    return competing[competing >= bound]


def nearest_in_norm(
    squares: Float[Tensor, "n d_sae"], target: Float[Tensor, "n 1"], *, last: float, group: Group = ALONE
) -> tuple[Int[Tensor, "n k_max"], Int[Tensor, "n 1"]]:
    """For each row the fewest largest ``squares`` whose sum has the root nearest to ``target``: indices and number.

    The sum of all of them counts as ``last``. Sums only grow, so a row whose largest few reach the target needs no more
    of them put in order; the other rows are sorted. Where processes share the latents, indices are of all latents.
    """
    d_sae = squares.shape[-1] * group.latent_shards
    some = min(FIRST, d_sae)
    values, order = _largest(squares, some, group)
    roots = _roots(values, last if some == d_sae else None)
    counts = _nearest(roots, target)
    short = (roots[:, -1:] < target).squeeze(-1).nonzero().squeeze(-1) if some < d_sae else None
    if short is None or not len(short):
        return order[:, : int(counts.max())] if len(counts) else order, counts
    sorted_, full_order = group.beside(squares[short]).sort(descending=True)
    counts[short] = _nearest(_roots(sorted_, last), target[short])
    indices = order.new_zeros(len(squares), int(counts.max()))
    width = min(some, indices.shape[1])
    indices[:, :width] = order[:, :width]
    indices[short] = full_order[:, : indices.shape[1]]
    return indices, counts


def _largest(squares: Float[Tensor, "n mine"], some: int, group: Group) -> tuple[Tensor, Tensor]:
    """In order, the ``some`` largest of each row over all processes, and their indices."""
    values, order = squares.topk(min(some, squares.shape[-1]), dim=-1)
    if group.latent_shards == 1:
        return values, order
    values, place = group.beside(values).topk(some, dim=-1)
    return values, group.beside(order + group.first_latent(squares.shape[-1])).gather(-1, place)


def _roots(values: Float[Tensor, "n m"], last: float | None) -> Float[Tensor, "n m"]:
    # Beside a sum in float32 the smallest terms vanish: rounding would then choose among many equal sums.
    sums = values.cumsum(-1, dtype=torch.float64)
    if last is not None:
        sums[:, -1] = last
    return sums.sqrt_()


def _nearest(roots: Float[Tensor, "n m"], target: Float[Tensor, "n 1"]) -> Int[Tensor, "n 1"]:
    # argmin returns the first of equals: the fewest latents, none of them a trailing zero.
    return (roots - target).abs().argmin(-1, keepdim=True) + 1
