"""Signum: every weight moves by the learning rate, against the sign of its gradient's running mean.

Bernstein et al. 2018 (arXiv 1802.04434), without weight decay.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saes.training.optimiser.adam import chunks, grouped, latents_first

MOMENTUM = 0.9


class Signum(torch.optim.Optimizer):
    """It keeps one number of each weight, the mean. Some have latents as ``columns``, the others as rows."""

    def __init__(self, weights: Sequence[Tensor], *, columns: Sequence[Tensor] = ()) -> None:
        super().__init__(grouped(weights, columns), {"lr": 0.0, "momentum": MOMENTUM})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that there are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moved = (parameter, parameter.grad, self.state[parameter]["exp_avg"])
                for weights, gradient, mean in chunks(*latents_first(*moved, columns=group["columns"])):
                    mean.lerp_(gradient, 1 - group["momentum"])
                    weights.sub_(mean.sign(), alpha=group["lr"])
