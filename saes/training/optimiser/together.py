"""The optimisers of one run, of which each has its own weights, as one; and a step of all of them."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.training.optimiser.adam import adam_step, chunks, grouped, latents_first, make_moments
from saes.training.optimiser.kinds import ADAM_BETAS, ADAM_EPS
from saes.training.optimiser.signum import Signum
from saes.training.optimiser.soap import Soap

MUON_MOMENTUM = 0.9


class Together:
    """Of matrices the one that was asked for, of vectors Adam: a bias or a threshold has no directions to share."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.state: MutableMapping[Tensor, dict[str, Tensor]] = optimizers[0].state
        """Moments by weight."""
        for other in optimizers[1:]:
            optimizers[0].state.update(other.state)
            other.state = optimizers[0].state

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all of them, as PyTorch has them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


def optimizer_for(
    weights: Sequence[Tensor],
    kind: str = "adam",
    *,
    columns: Sequence[Tensor] = (),
    betas: tuple[float, float] = ADAM_BETAS,
    eps: float = ADAM_EPS,
) -> Together:
    """One of ``KINDS`` with its moments made, before its first step; ``betas`` and ``eps`` are Adam's. Latents are the
    ``columns`` of some matrices, and the rows of the others."""
    matrices = [weight for weight in weights if weight.ndim == 2]
    others = weights if kind == "adam" else [weight for weight in weights if weight.ndim != 2]
    adam = torch.optim.Adam(grouped(others, columns), lr=0.0, betas=betas, eps=eps, fused=True)
    make_moments(adam)
    if kind == "adam":
        return Together(adam)
    if kind == "signum":
        return Together(Signum(matrices, columns=columns), adam)
    if kind == "soap":
        return Together(Soap(matrices, eps=eps, columns=columns), adam)
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"muon needs torch 2.9 or later, and here is {torch.__version__}: upgrade it, or choose another"
        )
    # Its step is scaled so that an entry moves as far as Adam's of the same rate (Liu et al. 2025, arXiv 2502.16982).
    muon = torch.optim.Muon(
        grouped(matrices, columns),
        lr=0.0,
        weight_decay=0.0,
        momentum=MUON_MOMENTUM,
        eps=eps,
        adjust_lr_fn="match_rms_adamw",
    )
    for matrix in matrices:
        muon.state[matrix] = {"momentum_buffer": torch.zeros_like(matrix)}
    return Together(muon, adam)


def set_learning_rate(optimizer: Together, step: int, *, peak: float, steps: int, warmup: float, decay: float) -> None:
    """Linear warm-up, constant, linear decay: a function of the step alone, so that nothing has to be resumed."""
    rise = (step + 1) / max(1.0, warmup * steps)
    fall = (steps - step) / max(1.0, decay * steps)
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, rise, fall)


@torch.no_grad()
def take_step(optimizer: Together, *, scale: Float[Tensor, ""], unit_rows: Sequence[Tensor] = ()) -> None:
    """One step on ``scale`` times the gradients, which it overwrites; then latents of ``unit_rows`` get norm 1."""
    for each in optimizer.optimizers:
        if isinstance(each, torch.optim.Adam):
            adam_step(each, scale=scale, unit_rows=unit_rows)
            continue
        weights = [(weight, group["columns"]) for group in each.param_groups for weight in group["params"]]
        for weight, _ in weights if scale < 1 else ():
            if weight.grad is not None:
                weight.grad.mul_(scale)
        each.step()
        for weight, columns in weights:
            if any(weight is rows for rows in unit_rows):
                for (part,) in chunks(*latents_first(weight, columns=columns)):
                    part.div_(part.norm(dim=-1, keepdim=True))
