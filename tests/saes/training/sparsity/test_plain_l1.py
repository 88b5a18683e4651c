"""relu with its L1 loss, held against a loop of plain PyTorch on the same rows: dense latents, autograd, its Adam."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saes import TrainConfig, train
from saes.training import initial_state
from saes.training.optimiser.kinds import ADAM_BETAS, ADAM_EPS
from tests.saes.sources import MemorySource, planted

STEPS, BATCH, D, D_SAE, WEIGHT, RATE = 150, 128, 32, 128, 1.5, 5e-3
DATA = planted(8192, d=D, features=64, active=4)[0]
TRAINED, HELD_OUT = DATA[:6144], DATA[6144:]


def plain(start: dict[str, Tensor], batches: Iterator[Tensor]) -> dict[str, Tensor]:
    """Bricken et al. 2023: rows of W_dec keep norm 1, and the gradient along them is taken out."""
    weights = {name: start[name].clone().requires_grad_() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    W_enc, b_enc, W_dec, b_dec = weights.values()
    optimizer = torch.optim.Adam(weights.values(), betas=ADAM_BETAS, eps=ADAM_EPS)
    for step, x in zip(range(STEPS), batches, strict=False):
        latents = torch.relu((x - b_dec) @ W_enc + b_enc)
        error = (x - latents @ W_dec - b_dec).square().mean()
        l1 = (latents * W_dec.norm(dim=-1)).sum(-1).mean() / D
        optimizer.zero_grad()
        (error + WEIGHT * min(1, (step + 1) / (0.05 * STEPS)) * l1).backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(-1, keepdim=True) * W_dec
            torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
            rise, fall = (step + 1) / (0.05 * STEPS), (STEPS - step) / (0.2 * STEPS)
            optimizer.param_groups[0]["lr"] = RATE * min(1, rise, fall)
            optimizer.step()
            W_dec.copy_(normalize(W_dec, dim=-1))
    return {name: value.detach() for name, value in weights.items()}


def fvu_and_l0(weights: dict[str, Tensor], x: Tensor) -> tuple[float, float]:
    """Of held-out rows, as the weights rebuild them."""
    latents = torch.relu((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    error = x - latents @ weights["W_dec"] - weights["b_dec"]
    return float(error.square().sum() / (x - x.mean(0)).square().sum()), float((latents > 0).sum(-1).float().mean())


def test_relu_is_as_good_as_a_plain_loop(tmp_path: Path) -> None:
    """FVU and L0 within a thousandth: float32 adds in another order, and 150 steps of Adam make that no larger."""
    config = TrainConfig(
        site="s", out=tmp_path, activation="relu", d_sae=D_SAE, batch_size=BATCH, tokens=STEPS * BATCH, lr=RATE,
        loss_weights={"l1": WEIGHT}, log_every=STEPS,
    )  # fmt: skip
    source = MemorySource(TRAINED)
    state = initial_state(config, source)
    start, scale = {name: value.detach().clone() for name, value in state.alone.named_parameters()}, state.scale
    batches = (
        rows["s"] * scale  # type: ignore[index]
        for epoch in range(4)
        for rows in source.batches_of(["s"], BATCH, seed=epoch)  # type: ignore[list-item]
    )
    expected = fvu_and_l0(plain(start, batches), HELD_OUT * scale)
    ours = {name: value.detach() for name, value in train(config, source).fold_scales(1 / scale).named_parameters()}
    assert fvu_and_l0(ours, HELD_OUT * scale) == pytest.approx(expected, rel=1e-3)
    assert 8 < expected[1] < 24
    assert expected[0] < 0.3
