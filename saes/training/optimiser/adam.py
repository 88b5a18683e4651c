"""Adam's step with what belongs to it, a few rows of a matrix at a time, which stay in the cache from first to last.

Row by row it is what three passes over all weights would give: scale the gradient, ``torch.optim.Adam``, and rows of
unit norm again. The moments stay in the optimizer, where checkpoints look for them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

CHUNK = 1 << 20
"""Weights at a time."""


@torch.no_grad()
def remove_parallel(gradient: Float[Tensor, "n d"], rows: Float[Tensor, "n d"]) -> None:
    """In place: take from each row of the gradient its part along the row of unit norm, which only changes a length."""
    for g, row in chunks(gradient, rows):
        g.addcmul_((g * row).sum(-1, keepdim=True), row, value=-1)


def grouped(weights: Sequence[Tensor], columns: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Groups of an optimiser's parameters: those whose latents are ``columns``, as W_enc's are, and the others."""
    groups: dict[bool, list[Tensor]] = {False: [], True: []}
    for weight in weights:
        groups[any(weight is matrix for matrix in columns)].append(weight)
    return [{"params": its, "columns": turned} for turned, its in groups.items() if its]


def make_moments(optimizer: torch.optim.Adam) -> None:
    """Zeros for Adam's moments, laid out in memory as the weights are.

    PyTorch makes them in the first step; there, amid blocks that the step frees, they would cut up the memory that
    later steps use again.
    """
    for group in optimizer.param_groups:
        for weights in group["params"]:
            step = torch.zeros((), dtype=torch.float32, device=weights.device)
            mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
            optimizer.state[weights] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}


@torch.no_grad()
def adam_step(optimizer: torch.optim.Adam, *, scale: Float[Tensor, ""], unit_rows: Sequence[Tensor] = ()) -> None:
    """One step of ``optimizer``, whose moments are made, on ``scale`` times the gradients, which it overwrites; then
    the latents of the parameters ``unit_rows`` get norm 1. A group of its parameters says whether latents are its
    columns (``grouped``); where it does not, they are its rows."""
    clipped = bool(scale < 1)
    for group in optimizer.param_groups:
        columns = group.get("columns", False)
        for weights in group["params"]:
            if weights.grad is None:
                continue
            state, unit = optimizer.state[weights], any(weights is rows for rows in unit_rows)
            its = latents_first(weights, weights.grad, state["exp_avg"], state["exp_avg_sq"], columns=columns)
            for w, gradient, mean, square in chunks(*its):
                if clipped:
                    gradient.mul_(scale)
                adam(
                    [w],
                    [gradient],
                    [mean],
                    [square],
                    [],
                    [state["step"].clone()],
                    fused=True,
                    amsgrad=group["amsgrad"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=group["maximize"],
                )
                if unit:
                    w.div_(w.norm(dim=-1, keepdim=True))
            state["step"] += 1


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching rows of tensors whose rows lie together; on a GPU all at once."""
    first = tensors[0]
    if first.is_cuda or first.numel() <= CHUNK:
        yield tensors
    else:
        rows = max(1, CHUNK // (first.numel() // len(first)))
        yield from zip(*(t.split(rows) for t in tensors), strict=True)


def latents_first(*tensors: Tensor, columns: bool) -> tuple[Tensor, ...]:
    """Views of tensors that lie in memory alike with a latent in every row, where they have latents as ``columns``.

    A latent's weights lie side by side either way, and what was said of the axis would be seen to be wrong.
    """
    views = tuple(t.T for t in tensors) if columns else tensors
    assert all(view.is_contiguous() for view in views)
    return views
