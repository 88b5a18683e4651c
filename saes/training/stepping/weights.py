"""What a loss does to the weights: gradient, clipping, the optimiser's step, and what follows every step."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saes.latents import Latents
from saes.places.dictionary import parts_of
from saes.sae import SAE
from saes.training.optimiser.adam import remove_parallel
from saes.training.optimiser.together import take_step
from saes.training.stepping.state import TrainState


def update(
    state: TrainState,
    loss: Float[Tensor, ""],
    latents: Sequence[Latents],
    *,
    tokens: int,
    decoder: str,
    clip: float,
    stopped: Callable[[str], FloatingPointError],
) -> Tensor:
    """One step down the gradient of ``loss``, and what follows every step; returns the gradient's norm before clipping.

    Args:
        loss: This process's share of it.
        latents: Of every part in the forward pass: those that were active, and what the activation learns from them.
        tokens: How many activations the step saw, in all processes.
        decoder: See ``TrainConfig``.
        clip: Largest norm of the gradient.
        stopped: Makes the error to raise, from the reason, where the gradient is not finite; no weight has changed.
    """
    sae, group = state.sae, state.sae.group
    parts = parts_of(sae)
    unit_rows = [part.W_dec if decoder == "unit_norm" else part.W_enc for part in parts if decoder != "free"]
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    group.sum_gradients(sae)
    for part in parts:
        if decoder == "tied":  # one matrix: its gradient is the sum, and W_dec follows after the step
            assert part.W_enc.grad is not None
            assert part.W_dec.grad is not None
            part.W_enc.grad += part.W_dec.grad.T
            part.W_dec.grad = None
            remove_parallel(part.W_enc.grad.T, part.W_enc.T)
        elif decoder == "unit_norm":
            assert part.W_dec.grad is not None
            remove_parallel(part.W_dec.grad, part.W_dec)
    gradient = group.gradient_norm(sae)
    if not torch.isfinite(gradient):
        raise stopped("the gradient is not finite")
    take_step(state.optimizer, scale=(clip / gradient).clamp(max=1), unit_rows=unit_rows)
    with torch.no_grad():
        if decoder == "tied":
            for part in parts:
                part.W_dec.copy_(part.W_enc.T)
        if isinstance(sae, SAE):
            sae.activation.after_step(sae, latents[0])
        else:
            sae.after_step(latents)
        active = torch.zeros_like(state.silent, dtype=torch.bool)
        for row, its in zip(active.view(len(parts), -1), latents, strict=True):
            row[its.indices[its.values != 0]] = True
        state.silent = torch.where(group.over_rows(active.int()) > 0, 0, state.silent + tokens)
        state.step += 1
    return gradient
