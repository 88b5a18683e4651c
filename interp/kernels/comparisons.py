"""What a kernel has to do with a task and with another kernel, and how far weights went."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics import Estimate


def alignment(kernel: Float[Tensor, "n columns"], labels: Float[Tensor, " labels"]) -> float:
    """yᵀ K y / (||K|| ||y||²) in the Frobenius norm, kernel [n, n] and labels [n] centred: 1 where the kernel is y yᵀ.

    The kernel is centred on both sides (H K H). The published notebook centres its columns only, which gives the same
    numerator and another norm.

    Raises:
        ValueError: shapes that do not go together; labels or a kernel that are constant, so that nothing is left.

    Example:
        >>> import torch
        >>> from interp.kernels import alignment
        >>> y = torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> round(alignment(y[:, None] * y, y), 6)
        1.0
    """
    _check_square(kernel)
    if labels.shape != kernel.shape[:1]:
        raise ValueError(f"{len(labels)} labels for a kernel of shape {list(kernel.shape)}: give one for each row")
    y = labels.double() - labels.double().mean()
    k = _centred(kernel)
    scale = float(k.norm() * (y @ y))
    if not scale > 1e-12 * float(kernel.double().norm() * labels.double().square().sum() + 1e-300):
        raise ValueError("the labels, or the kernel once it is centred, are constant: there is nothing to align with")
    return float(y @ k @ y) / scale


def kernel_distance(kernel: Float[Tensor, "n columns"], other: Float[Tensor, "m others"]) -> Estimate:
    """1 - <K, K'> / (||K|| ||K'||): 0 where one is the other times a number; ± by the jackknife over inputs.

    It may be tiny although weights move by several times their norm: look at :func:`movement` beside it.

    Raises:
        ValueError: kernels of different shape, or one of zeros.

    Example:
        >>> import torch
        >>> from interp.kernels import kernel_distance
        >>> kernel_distance(torch.eye(3), 2 * torch.eye(3)).value
        0.0
    """
    _check_square(kernel)
    if kernel.shape != other.shape:
        raise ValueError(
            f"kernels of shapes {list(kernel.shape)} and {list(other.shape)}: take the same inputs in both"
        )
    a, b = kernel.double(), other.double()
    n = len(a)
    value = _distance((a * b).sum(), (a * a).sum(), (b * b).sum())
    if n < 3:
        return Estimate(value, math.nan, n)
    left = []
    for i in range(n):  # all products without row and column i
        parts = [(m.sum() - m[i].sum() - m[:, i].sum() + m[i, i]) for m in (a * b, a * a, b * b)]
        left.append(_distance(*parts))
    each = torch.tensor(left, dtype=torch.float64)
    error = math.sqrt(float(((each - each.mean()) ** 2).sum()) * (n - 1) / n)
    return Estimate(value, error, n)


def _distance(cross: Tensor, own: Tensor, others: Tensor) -> float:
    norm = float((own * others).sqrt())
    if not norm > 0:
        raise ValueError("a kernel of zeros has no direction: no output depends on the chosen parameters")
    share = float(cross) / norm
    return 0.0 if share > 1 - 4e-16 else 1 - share


@dataclass(frozen=True, kw_only=True)
class Movement:
    """How far weights are from where they were.

    Example:
        >>> from interp.kernels import Movement
        >>> Movement(relative=0.3, rotation=0.1).relative
        0.3
    """

    relative: float
    """||θ - θ₀|| / ||θ₀||. Where a norm follows, the size of a matrix says nothing: then ``rotation`` counts."""
    rotation: float
    """1 - cos(θ, θ₀)."""


def movement(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Movement:
    """Of all tensors of ``before`` together.

    Raises:
        ValueError: other names or shapes, or weights of zeros.

    Example:
        >>> import torch
        >>> from interp.kernels import movement
        >>> movement({"w": 3 * torch.ones(2)}, {"w": torch.ones(2)})
        Movement(relative=2.0, rotation=0.0)
    """
    if not before or now.keys() != before.keys() or any(now[name].shape != before[name].shape for name in before):
        raise ValueError("the two sets of weights differ in names or shapes: compare checkpoints of one model")
    sums = torch.zeros(4, dtype=torch.float64)
    for name, old in before.items():
        a, b = now[name].detach().double().flatten().cpu(), old.detach().double().flatten().cpu()
        sums += torch.stack([((a - b) ** 2).sum(), a @ b, a @ a, b @ b])
    moved, cross, own, old_square = sums.tolist()
    if not own * old_square > 0:
        raise ValueError("weights of zeros have no direction to compare")
    cosine = cross / math.sqrt(own * old_square)
    return Movement(relative=math.sqrt(moved / old_square), rotation=0.0 if cosine > 1 - 4e-16 else 1 - cosine)


def _centred(kernel: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    k = kernel.double()
    return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()


def _check_square(kernel: Tensor) -> None:
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) < 2:
        raise ValueError(f"a kernel of shape {list(kernel.shape)}; it is [n, n] of two inputs or more")
