"""How far a mean over prompts can be trusted. One prompt says nothing about it: its error is NaN, shown as n = 1."""

import math

import torch
from torch import Tensor


def standard_error(values: Tensor) -> Tensor:
    """Of the mean over prompts of ``values [n, …]``; NaN for a single prompt."""
    if len(values) == 1:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / len(values) ** 0.5


def plus_minus(error: float, digits: str = ".1g") -> str:
    """What stands behind a mean: `` ± 0.08``, or `` (n = 1)``."""
    return " (n = 1)" if math.isnan(error) else f" ± {error:{digits}}"
