"""How far a mean over prompts can be trusted. One prompt says nothing about it: its error is NaN, shown as n = 1."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics import Estimate


def standard_error(values: Tensor) -> Tensor:
    """Of the mean over prompts of ``values [n, …]``; NaN for a single prompt."""
    if len(values) == 1:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / len(values) ** 0.5


def mean_estimate(values: Float[Tensor, " n"]) -> Estimate:
    """The mean over prompts, with its standard error."""
    return Estimate(float(values.mean()), float(standard_error(values)), len(values))


def jackknife(values: Float[Tensor, "k n"], statistic: Callable[[Float[Tensor, " k"]], float]) -> Estimate:
    """A statistic of the means of ``k`` quantities over prompts, with the standard error of leaving out a prompt."""
    n, value = values.shape[1], statistic(values.mean(1))
    if n == 1:
        return Estimate(value, math.nan, 1)
    left_out = (values.sum(1, keepdim=True) - values) / (n - 1)
    found = torch.tensor([statistic(column) for column in left_out.T], dtype=torch.float64)
    return Estimate(value, float((found.var(correction=0) * (n - 1)).sqrt()), n)


@dataclass(frozen=True, kw_only=True)
class KeptAndLeftOut:
    """What a circuit, of edges or of features, does alone, and what is done without it, over the same prompts."""

    faithfulness: Estimate
    """What the circuit does by itself: 1 is the model, 0 everything ablated."""
    completeness: Estimate
    """What is done without the circuit, on the same scale: 0 is best."""

    @property
    def n(self) -> int:
        """Prompts."""
        return self.faithfulness.n

    @property
    def standard_error(self) -> float:
        """Of ``faithfulness``."""
        return self.faithfulness.standard_error

    @property
    def completeness_standard_error(self) -> float:
        """Of ``completeness``."""
        return self.completeness.standard_error
