"""How many latents are active before the first step."""

from pathlib import Path

import pytest
import torch

from saes import SAE, JumpReLU, TrainConfig
from saes.activations import ACTIVATIONS
from saes.training import initial_state
from saes.training.sparsity.start import DEFAULT_L0, start_from
from tests.saes.sources import MemorySource, planted

SPARSE = [name for name, variant in ACTIVATIONS.items() if variant.starts_sparse_by]


def test_those_without_k_start_from() -> None:
    assert set(SPARSE) == {"relu", "gated", "jumprelu"}


@pytest.mark.parametrize("activation", SPARSE)
@pytest.mark.parametrize("l0", [None, 6.0])
def test_rows_that_were_not_looked_at_have_the_number_wanted(activation: str, l0: float | None, tmp_path: Path) -> None:
    """At eight latents a dimension, where half of all latents would rebuild every row four times over."""
    data = planted(6000, d=32, features=256, active=5)[0] * 7 + 3
    config = TrainConfig(site="s", out=tmp_path, activation=activation, d_sae=256, tokens=1000, l0=l0)
    state = initial_state(config, MemorySource(data[:3000]))
    sae, x = state.alone.eval(), data[3000:] * state.scale
    latents = sae.encode(x)
    assert float(latents.l0.float().mean()) == pytest.approx(l0 or DEFAULT_L0, rel=0.1)
    assert len(torch.unique(latents.indices[latents.values > 0])) == 256, "none is silent"
    centred = x - x.mean(0)
    assert float((x - sae(x)).detach().square().sum() / centred.square().sum()) < 0.8


@pytest.mark.parametrize("activation", ["jumprelu", "topk", "batchtopk", "matryoshka"])
def test_the_reconstruction_has_the_size_that_leaves_least_error(activation: str, tmp_path: Path) -> None:
    """Any factor on the latents makes the error larger."""
    number = {"l0": 8.0} if activation == "jumprelu" else {"k": 8}
    config = TrainConfig(site="s", out=tmp_path, activation=activation, d_sae=128, tokens=1000, **number)  # type: ignore[arg-type]
    data = planted(1000, d=32)[0]
    state = initial_state(config, MemorySource(data))
    sae = state.alone.train()
    x = data[torch.randperm(1000, generator=torch.Generator().manual_seed(0))] * state.scale
    errors = [float((x - sae.b_dec - c * (sae(x) - sae.b_dec)).square().sum().detach()) for c in (0.99, 1.0, 1.01)]
    assert errors[1] == min(errors)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_a_transcoder_rebuilds_half_the_size_of_its_target(activation: str) -> None:
    """Root mean square 0.5 in the units of training, whose entries are about 1; what is smaller stays as it is."""
    x = planted(1000, d=32)[0] * 4
    for factor, expected in ((1.0, 0.5), (1e-3, None)):
        number = {"k": 8} if activation == "topk" else {}
        sae = SAE(32, 64, ACTIVATIONS[activation](**number), d_out=16, subtract_b_dec=False)
        sae.initialise(seed=0, mean=torch.zeros(16))
        with torch.no_grad():
            sae.W_enc.mul_(factor)
        before = sae.W_enc.norm()
        start_from(sae, x, 8.0)
        if expected is None:
            assert sae.W_enc.norm() == before
        else:
            assert sae(x).square().mean().sqrt().item() == pytest.approx(expected, rel=1e-5)  # b_dec is 0


def test_rows_that_are_all_of_the_variance_do_not_count() -> None:
    """One massive row among a thousand would set every level by itself."""
    x = planted(1000, d=32)[0]
    massive = x.clone()
    massive[3] *= 1e4
    levels = []
    for rows in (x[torch.arange(1000) != 3], massive):
        sae = SAE(32, 64, JumpReLU()).initialise(seed=0, mean=torch.zeros(32))
        start_from(sae, rows, 4.0)
        levels.append(sae.threshold.detach())
    torch.testing.assert_close(*levels)
