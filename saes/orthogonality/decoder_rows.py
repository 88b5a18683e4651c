"""How far the rows of a decoder are from orthogonal: exact over all pairs, in little memory however many there are.

Sums over pairs need no pairs: the squared cosines add up to the squared entries of the Gram matrix of dimensions, and
the cosines to the squared norm of the sum of unit rows. Only the largest is looked for, block of rows by block.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.terminal.progress import counted

_ENTRIES = 2**24
"""Cosines in memory at once: 64 MiB of float32."""


@dataclass(frozen=True, kw_only=True)
class RowOverlap:
    """Cosines between the rows of one decoder, over all pairs of rows that are not zero."""

    rows: int
    """How many rows are not zero."""
    dimensions: int
    """How many dimensions a row has."""
    coherence: float
    """The largest magnitude of a cosine: the ε of a dictionary whose rows are ε-quasi-orthogonal."""
    pair: tuple[int, int]
    """Numbers of two rows that have it."""
    rms: float
    """Root of the mean squared cosine."""
    mean: float
    """Mean of the cosines with their signs."""

    @property
    def welch(self) -> float:
        """Welch's bound: no so many rows in so many dimensions have less, neither as coherence nor as ``rms``."""
        spare = max(0, self.rows - self.dimensions)
        return math.sqrt(spare / (self.dimensions * (self.rows - 1)))


@torch.no_grad()
def row_overlap(decoder: Float[Tensor, "rows dimensions"]) -> RowOverlap:
    """Cosines between all pairs of a decoder's rows; rows of zeros, which dead latents may have, are left out.

    Takes rows² x dimensions multiplications on the decoder's device, and 64 MiB beside copies of the decoder.

    Raises:
        ValueError: fewer than two rows that are not zero, or entries that are not finite.

    Example:
        >>> import torch
        >>> from saes.orthogonality import row_overlap
        >>> found = row_overlap(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]))
        >>> round(found.coherence, 4), found.pair
        (0.8, (1, 2))
    """
    if not decoder.isfinite().all():
        raise ValueError("the decoder has entries that are not finite: its files are damaged, fetch them again")
    kept = (decoder != 0).any(1).nonzero().flatten()
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {len(decoder)} decoder rows are not zero; an overlap needs two")
    wide = torch.promote_types(decoder.dtype, torch.float32)
    rows = decoder[kept].to(wide)
    rows = rows / rows.abs().amax(1, keepdim=True)  # so that no square of a tiny row underflows
    rows = rows / rows.norm(dim=1, keepdim=True)
    count, dimensions = rows.shape
    gram = rows.new_zeros(dimensions, dimensions, dtype=torch.float64)
    total = rows.new_zeros(dimensions, dtype=torch.float64)
    with_itself = torch.zeros(2, dtype=torch.float64)  # which float32 does not make exactly 1
    for block in rows.split(max(1, _ENTRIES // dimensions)):
        block = block.double()
        gram += block.T @ block
        total += block.sum(0)
        squares = block.square().sum(1)
        with_itself += torch.stack([squares.sum(), squares.square().sum()]).cpu()
    pairs = count * (count - 1)
    coherence, pair = _largest(rows)
    return RowOverlap(
        rows=count,
        dimensions=dimensions,
        coherence=coherence,
        pair=(int(kept[pair[0]]), int(kept[pair[1]])),
        rms=math.sqrt(max(0.0, float(gram.square().sum()) - float(with_itself[1])) / pairs),
        mean=(float(total.square().sum()) - float(with_itself[0])) / pairs,
    )


def _largest(rows: Float[Tensor, "rows dimensions"]) -> tuple[float, tuple[int, int]]:
    """|cosine| and numbers of the pair, each pair looked at once; computed again in float64, 1 at the most."""
    size = max(1, _ENTRIES // len(rows))
    best, pair = -1.0, (0, 1)
    for start in counted(range(0, len(rows) - 1, size), "compare decoder rows", unit="blocks"):
        block = rows[start : start + size]
        cosines = (block @ rows[start:].T).abs()
        number = torch.arange(len(block), device=rows.device)
        cosines[number, number] = -1.0
        at = int(cosines.argmax())
        row, column = divmod(at, cosines.shape[1])
        if float(cosines[row, column]) > best:
            best, pair = float(cosines[row, column]), (start + row, start + column)
    first, second = rows[pair[0]].double(), rows[pair[1]].double()
    exact = float((first @ second).abs() / (first.norm() * second.norm()))
    return min(1.0, exact), (min(pair), max(pair))
