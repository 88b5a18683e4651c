"""The threshold that a run ends with: single rows are as sparse as the batches that training saw, at any length."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from saes import SAE, Gated, JumpReLU, TrainConfig, train
from saes.training import initial_state, train_dictionary
from saes.training.calibration import calibrate
from tests.saes.places import test_training as places
from tests.saes.sources import MemorySource, planted

K = 8


@pytest.mark.parametrize("steps", [5, 50, 300])
@pytest.mark.parametrize("variant", [{"activation": "batchtopk"}, {"activation": "matryoshka"}])
def test_held_out_rows_are_as_sparse_as_training_was(variant: dict[str, Any], steps: int, tmp_path: Path) -> None:
    data = planted(8192, d=32)[0]
    sae = train(
        TrainConfig(
            site="s", out=tmp_path, k=K, d_sae=128, batch_size=256, tokens=256 * steps, lr=3e-3, warmup=0.0, **variant
        ),
        MemorySource(data[:6144]),
    )
    assert float(sae.encode(data[6144:]).l0.float().mean()) == pytest.approx(K, rel=0.05)


@pytest.mark.parametrize("asked", [6.0, 10.0])
@pytest.mark.parametrize("activation", ["jumprelu", "gated", "relu"])
def test_the_number_asked_for_is_there_however_short_the_run(activation: str, asked: float, tmp_path: Path) -> None:
    """Twelve steps at so low a rate, after a start at another number: the controller can do next to nothing."""
    data = planted(8192, d=32)[0]
    options = {"activation": activation, "l0": 8.0, "d_sae": 128, "batch_size": 256, "tokens": 256 * 12, "lr": 1e-4}
    config = TrainConfig(site="s", out=tmp_path, **options)  # type: ignore[arg-type]
    state = initial_state(config, MemorySource(data[:6144]))
    calibrate(state.sae, ([rows * state.scale] for rows in data[:6144].split(256)), asked)
    assert float(state.alone.encode(data[6144:] * state.scale).l0.float().mean()) == pytest.approx(asked, rel=0.05)
    sae = train(config, MemorySource(data[:6144]))
    assert float(sae.encode(data[6144:]).l0.float().mean()) == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize(("asked", "active"), [(1.0, 1.0), (3.0, 3.0), (6.0, 4.0)])
def test_what_is_below_zero_does_not_count_as_near_its_threshold(asked: float, active: float) -> None:
    """Latents 4 to 7 are below zero on every row and close below their thresholds, which no shift helps; the others
    are far below theirs, and can be active. More than these four there cannot be."""
    x = torch.rand(1000, 8, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0] * 4 + [-1.1] * 4)
    sae = SAE(8, 8, JumpReLU(), subtract_b_dec=False)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(8))
        sae.b_enc.zero_()
        sae.threshold.copy_(torch.tensor([5.0] * 4 + [0.05] * 4))
    calibrate(sae, [[x]], asked)
    assert float(sae.eval().encode(x).l0.float().mean()) == pytest.approx(active, rel=0.002)


@torch.no_grad()
def test_a_shift_of_gates_leaves_what_stays_active_as_it_was() -> None:
    """What is active afterwards are those whose gates are largest, among those whose magnitudes are above zero."""
    sae = SAE(16, 64, Gated()).initialise(seed=0, mean=torch.zeros(16))
    sae.b_enc.copy_(torch.linspace(-3, 0.5, 64))
    sae.r_mag.copy_(torch.linspace(-0.3, 0.3, 64))
    sae.b_mag.copy_(torch.linspace(-2, 1, 64))
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    gates, magnitudes = sae.pre_activations(x), (x @ sae.W_enc) * sae.r_mag.exp() + sae.b_mag
    for asked in (2.0, 12.0):
        calibrate(sae, [[x]], asked)
        kept = gates.where(magnitudes > 0, -torch.inf)
        kept = kept >= kept.flatten().topk(round(asked * 500)).values[-1]
        found = sae.encode(x).to_dense()
        assert int(((found != 0) != kept).sum()) <= 2  # the last one itself, by rounding
        torch.testing.assert_close(found, magnitudes.where(found != 0, 0), rtol=1e-4, atol=1e-5)


def test_parts_without_a_latent_above_zero_stay_as_they_are() -> None:
    sae = SAE(4, 8, JumpReLU(), subtract_b_dec=False)
    before = sae.threshold.detach().clone()
    calibrate(sae, [[-torch.ones(10, 4)]], 2.0)
    assert torch.equal(sae.threshold, before)


@pytest.mark.parametrize(("kind", "activation"), [("transcoders", "jumprelu"), ("clt", "gated"), ("clt", "relu")])
@pytest.mark.parametrize("budget", ["part", "all"])
def test_every_part_has_that_number_or_all_have_it_on_average(
    kind: str, activation: str, budget: str, tmp_path: Path
) -> None:
    source = places.source(4000)
    options = {"k": None, "l0": 3.0, "tokens": 256 * 20, "lr": 3e-3, "budget": budget, "log_every": 1}
    config = places.config(tmp_path, kind, activation, **options)
    dictionary = train_dictionary(config, source)
    xs = [source.at[place] for place in config.places[0]]
    l0 = [float(latents.l0.float().mean()) for latents in dictionary.encode(xs)]
    assert sum(l0) == pytest.approx(3 * len(l0), rel=0.05)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    name = {"jumprelu": "weight.l0", "gated": "weight.gate_l1", "relu": "weight.l1"}[activation]
    weights = [[line[f"{name}.{i}"] for i in range(len(l0))] for line in log]
    assert [line[name] for line in log] == pytest.approx([sum(its) / len(its) for its in weights])
    if budget == "part":
        assert l0 == pytest.approx([3] * len(l0), rel=0.05)
        assert len(set(weights[-1])) == len(l0)
    else:
        assert max(l0) > 1.1 * min(l0), "so that the test can tell"
        assert all(len(set(its)) == 1 for its in weights)


@pytest.mark.parametrize(("kind", "budget"), [("transcoders", "part"), ("transcoders", "all"), ("crosscoder", "part")])
def test_dictionaries_over_places_too(kind: str, budget: str, tmp_path: Path) -> None:
    source = places.source(4000)
    config = places.config(tmp_path, kind, "batchtopk", k=3, budget=budget, tokens=256 * 40, warmup=0.0, lr=3e-3)
    dictionary = train_dictionary(config, source)
    xs = [source.at[place] for place in config.places[0]]
    l0 = sum(float(latents.l0.float().mean()) for latents in dictionary.encode(xs))
    assert l0 == pytest.approx(3 * len(dictionary.parts), rel=0.05)
    if budget == "all":
        assert len({float(part.threshold) for part in dictionary.parts}) == 1


def test_decoder_norms_are_part_of_the_scores(tmp_path: Path) -> None:
    data = planted(6144, d=32)[0]
    config = TrainConfig(
        site="s", out=tmp_path, activation="batchtopk", k=K, options={"decoder_norms": True}, d_sae=128,
        decoder="free", batch_size=256, tokens=256 * 60, lr=1e-2, warmup=0.0,
    )  # fmt: skip
    sae = train(config, MemorySource(data))
    norms = sae.decoder_norms()
    assert float((norms.max() / norms.min()).detach()) > 1.05, "norms matter"
    assert float(sae.encode(data).l0.float().mean()) == pytest.approx(K, rel=0.05)
