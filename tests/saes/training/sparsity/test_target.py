"""L0 as it was asked for: on held-out rows, at other weights, after an interruption, and in the log."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saes import TrainConfig, train
from saes.training import train_dictionary
from saes.training.sparsity.target import next_factor, weight_factor
from tests.saes.places import test_training as places
from tests.saes.sources import MemorySource, planted
from tests.saes.training.test_loop import _interrupt

DATA = planted(8192, d=32, features=64, active=4)[0]


def config(out: Path, activation: str, l0: float, **changes: object) -> TrainConfig:
    """300 steps."""
    own = {"d_sae": 64, "batch_size": 128, "tokens": 300 * 128, "lr": 7e-3, "log_every": 10} | changes
    return TrainConfig(site="s", out=out, activation=activation, l0=l0, **own)  # type: ignore[arg-type]


def l0_on_held_out_rows(run: TrainConfig) -> float:
    sae = train(run, MemorySource(DATA[:6144]))
    return float(sae.encode(DATA[6144:]).l0.float().mean())


@pytest.mark.parametrize("activation", ["jumprelu", "gated", "relu"])
def test_held_out_rows_are_as_sparse_as_was_asked(activation: str, tmp_path: Path) -> None:
    assert l0_on_held_out_rows(config(tmp_path, activation, 6.0)) == pytest.approx(6, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["jumprelu", "gated", "relu"])
@pytest.mark.parametrize("l0", [3.0, 12.0])
@pytest.mark.parametrize("weight", [0.3, 3.0])
def test_at_any_weight_that_it_starts_from(activation: str, l0: float, weight: float, tmp_path: Path) -> None:
    name = {"jumprelu": "l0", "gated": "gate_l1", "relu": "l1"}[activation]
    run = config(tmp_path, activation, l0, tokens=600 * 128, loss_weights={name: weight})
    assert l0_on_held_out_rows(run) == pytest.approx(l0, rel=0.1)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("activation", ["jumprelu", "gated"])
def test_an_interrupted_run_ends_with_the_same_bits(activation: str, tmp_path: Path) -> None:
    """What the controller has found is in the checkpoint, and which latents are dead; every weight is in the log."""
    own = {"tokens": 30 * 128, "checkpoint_every": 7, "log_every": 1, "dead_after_tokens": 128}
    run = config(tmp_path / "run", activation, 3.0, **own)
    source = MemorySource(DATA[:2000])
    straight = train(replace(run, out=tmp_path / "straight"), source)
    _interrupt(run, source, step=17)
    resumed = train(run, source)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("straight", "run")
    ]
    term = "weight.l0" if activation == "jumprelu" else "weight.gate_l1"
    assert [line[term] for line in logs[0]] == [line[term] for line in logs[1]]
    assert len({line[term] for line in logs[0]}) > 20
    assert [line.get("aux") for line in logs[0]] == [line.get("aux") for line in logs[1]]
    assert any(line["aux"] for line in logs[0][20:] if "aux" in line)


def test_the_weight_answers_at_once_and_remembers() -> None:
    """Twice as many latents as wanted: sixteen times the weight now, and a little more for good."""
    assert weight_factor(1.0, 8.0, 4.0, term="l1") == pytest.approx(16)
    assert weight_factor(1.0, 2.0, 4.0, term="l1") == pytest.approx(1 / 16)
    assert next_factor(1.0, 8.0, 4.0, steps=1000, terms=["l1"]) == pytest.approx(2**0.02)
    assert next_factor(1.0, 8.0, 4.0, steps=10, terms=["l1"]) == pytest.approx(2**0.05)
    assert next_factor(1.0, 8.0, 4.0, steps=10**6, terms=["l1"]) == pytest.approx(2**0.005)


def test_what_counts_latents_may_reward_them() -> None:
    assert weight_factor(1.0, 4.0, 4.0, term="l0") == pytest.approx(0.8)
    assert weight_factor(0.1, 4.0, 4.0, term="l0") == pytest.approx(0.1 - 2.0)
    assert weight_factor(0.1, 4.0, 4.0, term="gate_l1") == pytest.approx(0.1)


@pytest.mark.parametrize(("term", "least"), [("l0", 0.05), ("gate_l1", 1e-4)])
def test_no_latent_at_all_winds_nothing_up(term: str, least: float) -> None:
    """After any number of steps without a latent the weight is back in a few."""
    factor = 1.0
    for _ in range(10_000):
        factor = next_factor(factor, 0.0, 4.0, steps=100, terms=[term])
    assert factor == pytest.approx(least)
    assert weight_factor(factor, 0.0, 4.0, term="l0") == -5
    assert weight_factor(0.05, 8.0, 4.0, term="l0") > 0


def test_every_part_of_a_dictionary_has_it(tmp_path: Path) -> None:
    source = places.source(2000)
    run = places.config(tmp_path, "clt", "jumprelu", k=None, l0=4.0, tokens=256 * 150, lr=None, log_every=50)
    dictionary = train_dictionary(run, source)
    latents = dictionary.encode([source.at[place] for place in run.places[0]])
    assert [float(its.l0.float().mean()) for its in latents] == pytest.approx([4] * len(latents), rel=0.05)
