"""The largest singular values of a matrix, by power iteration on a few vectors at once."""

import torch
from jaxtyping import Float
from torch import Tensor

_SPARE = 6
_ITERATIONS = 300


def top_singular_values(
    weight: Float[Tensor, "rows columns"], *, k: int = 2, tolerance: float = 1e-6
) -> Float[Tensor, " k"]:
    """The ``k`` largest singular values, descending, float64, to a relative ``tolerance``.

    Block power iteration with six spare vectors; where it has not settled after 300 rounds (a spectrum with many nearly
    equal values), all singular values are computed. Small matrices are taken whole.

    Raises:
        ValueError: ``k`` is not between 1 and the smaller side; ``tolerance`` is not above 0; an entry is not finite.

    Example:
        >>> import torch
        >>> from interp.gains import top_singular_values
        >>> top_singular_values(torch.diag(torch.tensor([1.0, 3.0, 2.0]))).tolist()
        [3.0, 2.0]
    """
    smaller = min(weight.shape)
    if not 1 <= k <= smaller:
        raise ValueError(f"k={k}; a matrix of shape {list(weight.shape)} has 1 to {smaller} singular values")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance}; it must be above 0")
    matrix = weight.detach().double()
    if not matrix.isfinite().all():
        raise ValueError("the matrix has entries that are not finite, so that it has no singular values")
    if smaller <= 64 * k:
        return torch.linalg.svdvals(matrix)[:k]
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(tall.shape[1], k + _SPARE, generator=generator, dtype=torch.float64).to(tall.device)
    basis, _ = torch.linalg.qr(start)
    before = torch.full((k,), -1.0, dtype=torch.float64, device=tall.device)
    for _ in range(_ITERATIONS):
        image = tall @ basis
        values = torch.linalg.svdvals(image)[:k]
        # A value has an error of the square of its vector's: a step this small leaves far less than the tolerance.
        if ((values - before).abs() <= 0.001 * tolerance * values[0]).all():
            return values
        before = values
        basis, _ = torch.linalg.qr(tall.T @ image)
    return torch.linalg.svdvals(matrix)[:k]
