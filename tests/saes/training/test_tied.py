"""A tied decoder is one matrix: the same steps as a hand-written SAE that has only one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from interp import Site
from saes import TrainConfig, train
from saes.training.optimiser.kinds import ADAM_BETAS, ADAM_EPS
from tests.saes.sources import MemorySource, planted

STEPS, ROWS, K = 12, 128, 4


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        site="s",
        out=tmp_path / "run",
        k=K,
        d_sae=48,
        tokens=STEPS * ROWS,
        batch_size=ROWS,
        lr=1e-2,
        warmup=0.0,
        decay=0.0,
        clip=0.05,
        decoder="tied",
        normalise="none",
    )


@pytest.mark.parametrize(("d_sae", "k"), [(48, K), (1, 1)])
def test_the_steps_are_those_of_one_matrix(d_sae: int, k: int, config: TrainConfig) -> None:
    config = replace(config, d_sae=d_sae, k=k)
    source = MemorySource(planted(STEPS * ROWS, d=24, features=32)[0])
    start = train(replace(config, tokens=1, batch_size=1, lr=1e-30, out=config.out / "start"), source)
    assert torch.allclose(start.W_enc, start.W_dec.T, atol=1e-6)
    W = functional.normalize(start.W_dec.detach(), dim=-1).clone().requires_grad_()
    b_enc, b_dec = (p.detach().clone().requires_grad_() for p in (start.b_enc, start.b_dec))
    optimizer = torch.optim.Adam([W, b_enc, b_dec], lr=config.lr, betas=ADAM_BETAS, eps=ADAM_EPS)
    (place,) = [Site.parse(config.site)]
    for batch in source.batches_of([place], ROWS):
        x = batch[place]
        kept = ((x - b_dec) @ W.T + b_enc).topk(k, dim=-1)
        latents = torch.zeros(len(x), d_sae).scatter(-1, kept.indices, kept.values.relu())
        optimizer.zero_grad()
        (latents @ W + b_dec - x).square().mean().backward()
        assert W.grad is not None
        W.grad -= (W.grad * W).sum(-1, keepdim=True) * W.detach()
        torch.nn.utils.clip_grad_norm_([W, b_enc, b_dec], config.clip)
        optimizer.step()
        with torch.no_grad():
            W /= W.norm(dim=-1, keepdim=True)
    sae = train(replace(config, loss_weights={"aux": 0.0}), source)
    for name, found, wanted in (("W_dec", sae.W_dec, W), ("W_enc", sae.W_enc.T, W), ("b_enc", sae.b_enc, b_enc)):
        assert torch.allclose(found, wanted, atol=2e-5), name


def test_normalised_inputs_fold_into_both(config: TrainConfig) -> None:
    source = MemorySource(7 * planted(ROWS, d=24, features=32)[0])
    sae = train(replace(config, normalise="mean_norm", tokens=ROWS), source)
    norms = sae.W_dec.norm(dim=-1)
    assert torch.allclose(sae.W_enc.T, sae.W_dec / norms[:, None].square(), rtol=1e-4, atol=1e-6)


def test_transcoders_are_refused(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="decoder='tied' is for SAEs"):
        train(replace(config, target_site="t"), MemorySource(planted(ROWS, d=24, features=32)[0]))
