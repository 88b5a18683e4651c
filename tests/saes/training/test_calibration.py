"""The threshold that a run ends with: single rows are as sparse as the batches that training saw, at any length."""

from pathlib import Path
from typing import Any

import pytest
import torch

from saes import SAE, JumpReLU, TrainConfig, train
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
def test_jumprelu_has_the_number_asked_for_however_short_the_run(asked: float, tmp_path: Path) -> None:
    """Twelve steps at so low a rate, after a start at another number: the controller can do next to nothing."""
    data = planted(8192, d=32)[0]
    options = {"activation": "jumprelu", "l0": 8.0, "d_sae": 128, "batch_size": 256, "tokens": 256 * 12, "lr": 1e-4}
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


@pytest.mark.parametrize("kind", ["transcoders", "crosscoder"])
def test_parts_have_that_number_on_average(kind: str, tmp_path: Path) -> None:
    source = places.source(4000)
    config = places.config(tmp_path, kind, "jumprelu", k=None, l0=3.0, tokens=256 * 20, lr=3e-3)
    dictionary = train_dictionary(config, source)
    xs = [source.at[place] for place in config.places[0]]
    l0 = sum(float(latents.l0.float().mean()) for latents in dictionary.encode(xs))
    assert l0 == pytest.approx(3 * len(dictionary.parts), rel=0.05)


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
