"""How much of the variance is left, on rows that several processes may share."""

import torch
from jaxtyping import Float
from torch import Tensor

from saes.distributed.group import ALONE, Group


def fvu_of(target: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], group: Group = ALONE) -> float | None:
    """Fraction of variance unexplained; None where the rows do not differ by more than the rounding of their mean."""
    power, error = (group.mean(t.square()).mean() for t in (target, target - x_hat))
    variance = group.mean((target - group.mean(target)).square()).mean()
    rounding = (8 * torch.finfo(target.dtype).eps) ** 2 * power
    return float(error / variance) if variance > rounding else None
