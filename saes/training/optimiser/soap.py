"""SOAP: Adam in the directions in which gradients are correlated.

Vyas et al. 2024 (arXiv 2409.11321), algorithm 3, one-sided as in their section 5: a matrix of latents times dimensions
is turned along its dimensions alone. Turning along latents would mix them, and costs the cube of their number. As in
the authors' code the first gradient only gives the first directions, no weight decays, and vectors are Adam's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saes.training.optimiser.adam import grouped, latents_first

BETAS, GRAM_BETA = (0.95, 0.95), 0.95
EVERY = 10
"""Steps from one turn of the directions to the next."""


class Soap(torch.optim.Optimizer):
    """It keeps Adam's moments of each weight, of the gradient as it is and of its square along the directions, and for
    a matrix of width d two of d times d. Some have latents as ``columns``, the others as rows."""

    def __init__(self, matrices: Sequence[Tensor], *, eps: float, columns: Sequence[Tensor] = ()) -> None:
        own = {"lr": 0.0, "betas": BETAS, "gram_beta": GRAM_BETA, "every": EVERY, "eps": eps}
        super().__init__(grouped(matrices, columns), own)
        for group in self.param_groups:
            for matrix in group["params"]:
                width = matrix.shape[0 if group["columns"] else 1]
                self.state[matrix] = {
                    "step": torch.zeros((), device=matrix.device),
                    "exp_avg": torch.zeros_like(matrix),
                    "exp_avg_sq": torch.zeros_like(matrix),
                    "gram": matrix.new_zeros(width, width),
                    "directions": matrix.new_zeros(width, width),
                }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that there are."""
        for group in self.param_groups:
            beta_1, beta_2 = group["betas"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                moved = (matrix, matrix.grad, state["exp_avg"], state["exp_avg_sq"])
                rows, gradient, mean, square = latents_first(*moved, columns=group["columns"])
                gram, directions, done = state["gram"], state["directions"], int(state["step"])
                if done:
                    mean.lerp_(gradient, 1 - beta_1)
                    square.lerp_((gradient @ directions).square(), 1 - beta_2)
                    rate = group["lr"] * (1 - beta_2**done) ** 0.5 / (1 - beta_1**done)
                    turned = (mean @ directions).div_(square.sqrt().add_(group["eps"]))
                    rows.addmm_(turned, directions.T, alpha=-rate)
                gram.lerp_(gradient.T @ gradient, 1 - group["gram_beta"])
                if not done:
                    directions.copy_(torch.linalg.eigh(gram).eigenvectors.flip(-1))
                elif done % group["every"] == 0:
                    _turn(directions, gram, square)
                state["step"] += 1


def _turn(directions: Float[Tensor, "d d"], gram: Float[Tensor, "d d"], square: Float[Tensor, "n d"]) -> None:
    """In place: one step of orthogonal iteration, from the strongest direction on, which the moment follows."""
    ahead = gram @ directions
    order = (directions * ahead).sum(0).argsort(descending=True, stable=True)
    directions.copy_(torch.linalg.qr(ahead[:, order]).Q)
    square.copy_(square[:, order])
