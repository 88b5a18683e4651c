"""One pass over the weights against the five that it stands for."""

import pytest
import torch
from torch import nn

from saes import SAE, TopK
from saes.training.initial import fresh_state
from saes.training.optimiser import adam as update
from saes.training.optimiser.adam import adam_step, grouped, make_moments, remove_parallel
from saes.training.optimiser.together import set_learning_rate, take_step


def five_passes(sae: SAE, optimizer: torch.optim.Adam, clip: float, unit_norm: bool) -> None:
    """As PyTorch has them, one after another."""
    W_dec = sae.W_dec
    assert W_dec.grad is not None
    if unit_norm:
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(-1, keepdim=True) * W_dec
    nn.utils.clip_grad_norm_(sae.parameters(), clip)
    optimizer.step()
    if unit_norm:
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=-1, keepdim=True)


def one_pass(sae: SAE, optimizer: torch.optim.Adam, clip: float, unit_norm: bool) -> None:
    """As the trainer does."""
    assert sae.W_dec.grad is not None
    if unit_norm:
        remove_parallel(sae.W_dec.grad, sae.W_dec)
    norm = nn.utils.get_total_norm([p.grad for p in sae.parameters() if p.grad is not None])
    scale = (clip / (norm + 1e-6)).clamp(max=1)
    adam_step(optimizer, scale=scale, unit_rows=[sae.W_dec] if unit_norm else [])


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("clip", [0.5, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_ten_steps_are_those_of_five_passes(
    dtype: torch.dtype, tolerance: float, clip: float, unit_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of which the last is short; gradients that are clipped and that are not; a weight without gradient."""
    monkeypatch.setattr(update, "CHUNK", 7 * 6)
    generator = torch.Generator().manual_seed(0)
    saes = [SAE(6, 50, TopK(4), dtype=dtype).initialise(seed=0, mean=torch.zeros(6)) for _ in range(2)]
    groups = [grouped(list(sae.parameters()), [sae.W_enc]) for sae in saes]
    optimizers = [torch.optim.Adam(its, lr=0.01, fused=True) for its in groups]
    make_moments(optimizers[1])
    for _ in range(10):
        for name in ("W_enc", "W_dec", "b_enc"):
            gradient = torch.randn(saes[0].get_parameter(name).shape, generator=generator, dtype=dtype)
            for sae in saes:
                weights = sae.get_parameter(name)
                weights.grad = torch.empty_like(weights).copy_(gradient)
        five_passes(saes[0], optimizers[0], clip, unit_norm)
        one_pass(saes[1], optimizers[1], clip, unit_norm)
    for name, expected in saes[0].named_parameters():
        actual = saes[1].get_parameter(name)
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
        for key, moment in optimizers[0].state[expected].items():
            torch.testing.assert_close(optimizers[1].state[actual][key], moment, rtol=0, atol=tolerance * 50)
    assert not torch.equal(saes[0].W_enc, SAE(6, 50, TopK(4)).initialise(seed=0, mean=torch.zeros(6)).W_enc)
    assert all(float(moment.abs().max()) == 0 for moment in optimizers[1].state[saes[1].b_dec].values())


def test_weights_that_somebody_laid_otherwise_take_the_same_step() -> None:
    ends = []
    for own in (False, True):
        sae = SAE(6, 50, TopK(4)).initialise(seed=0, mean=torch.zeros(6))
        if own:
            sae.W_enc = nn.Parameter(sae.W_enc.detach().contiguous())
            sae.W_dec = nn.Parameter(sae.W_dec.detach().T.contiguous().T)
        state = fresh_state(sae, (1.0,), (1.0,), decoder="unit_norm")
        set_learning_rate(state.optimizer, 5, peak=0.1, steps=10, warmup=0.0, decay=0.0)
        x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
        (sae(x) - x).square().mean().backward()
        take_step(state.optimizer, scale=torch.tensor(1.0), unit_rows=[sae.W_dec])
        ends.append(sae)
    assert not torch.equal(ends[0].W_dec, SAE(6, 50, TopK(4)).initialise(seed=0, mean=torch.zeros(6)).W_dec)
    torch.testing.assert_close(ends[0].decoder_norms().detach(), torch.ones(50))
    for name, weights in ends[0].named_parameters():
        torch.testing.assert_close(ends[1].get_parameter(name), weights)


def test_options_of_the_optimizer_are_followed() -> None:
    """Every one that torch.optim.Adam has and a step depends on."""
    options = {"lr": 0.02, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}
    results = []
    for step in (lambda o: o.step(), lambda o: adam_step(o, scale=torch.tensor(1.0))):
        weights = nn.Parameter(torch.linspace(-1, 1, 12).view(4, 3))
        optimizer = torch.optim.Adam([weights], fused=True, **options)  # type: ignore[arg-type]
        make_moments(optimizer)
        for number in range(3):
            weights.grad = torch.full_like(weights, number - 0.5)
            step(optimizer)
        results.append(weights.detach())
    assert torch.equal(*results)
