"""The paper's toy: three vectors whose outer product is learned, and what clamping some of them does to the plateau."""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor


def trilinear_losses(
    *, clamped: Collection[str] = (), dim: int = 20, steps: int = 1000, learning_rate: float = 1.0, seed: int = 1
) -> Float[Tensor, " steps_and_1"]:
    """Loss ½ mean (a⊗b⊗c - a*⊗b*⊗c*)² of gradient descent, before each step and after the last.

    Targets and starts are Gaussian with variance 1 and 1 / dim. A clamped vector is at its target in every step.

    Args:
        clamped: of ``a``, ``b``, ``c``.
        dim: of each vector.
        steps: of gradient descent.
        learning_rate: its step.
        seed: of targets and starts.

    Raises:
        ValueError: a vector that is none of those, or sizes that are not positive.

    Example:
        >>> from interp.clamping import trilinear_losses
        >>> losses = trilinear_losses(steps=20)
        >>> bool(losses[-1] <= losses[0])
        True
    """
    if not set(clamped) <= set("abc"):
        raise ValueError(f"clamped={sorted(clamped)}; the vectors are a, b and c")
    if dim < 1 or steps < 1 or not learning_rate > 0:
        raise ValueError(f"dim={dim}, steps={steps}, learning_rate={learning_rate}: all must be above 0")
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(3, dim, generator=generator, dtype=torch.float64)
    now = torch.randn(3, dim, generator=generator, dtype=torch.float64) / dim**0.5
    held = [i for i, name in enumerate("abc") if name in clamped]
    losses = []
    for step in range(steps + 1):
        now[held] = target[held]
        # All sums of products of outer products are products of dot products.
        own, cross, full = (now * now).sum(1), (now * target).sum(1), (target * target).sum(1)
        losses.append(0.5 * (own.prod() - 2 * cross.prod() + full.prod()) / dim**3)
        if step < steps:
            others = torch.stack(
                [torch.stack([v[[j for j in range(3) if j != i]].prod() for i in range(3)]) for v in (own, cross)]
            )
            gradient = (others[0][:, None] * now - others[1][:, None] * target) / dim**3
            now = now - learning_rate * gradient
    return torch.stack(losses)
