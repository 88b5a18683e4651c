"""SAEs of steps on the way: what a run that ended there would have handed over."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saes import SAE, TrainConfig, train
from saes.training import loop, train_dictionary
from saes.training.finishing import STEPS
from tests.saes.evaluation.evaluated import run
from tests.saes.places import test_training as places
from tests.saes.sources import MemorySource, planted

SOURCE = MemorySource(planted(2000, d=32)[0])


def config(out: Path, steps: int = 30, **changes: object) -> TrainConfig:
    """Neither warm-up nor decay, so that a shorter run begins as a longer one does."""
    options: dict[str, object] = {
        "activation": "batchtopk", "k": 4, "d_sae": 64, "warmup": 0.0, "decay": 0.0, "lr": 1e-3, "checkpoint_every": 7,
    }  # fmt: skip
    return TrainConfig(site="s", out=out, batch_size=100, tokens=100 * steps, **(options | changes))  # type: ignore


@pytest.mark.parametrize("activation", ["batchtopk", "topk"])
def test_they_are_what_shorter_runs_end_with(activation: str, tmp_path: Path) -> None:
    whole = config(tmp_path / "whole", activation=activation, keep_steps=(10, 20))
    kept = train(whole, SOURCE)
    alone = train(config(tmp_path / "alone", activation=activation), SOURCE)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), alone.parameters(), strict=True))
    assert sorted(path.name for path in (whole.out / STEPS).iterdir()) == ["000000010", "000000020"]
    for steps in (10, 20):
        shorter = train(config(tmp_path / f"{steps}", steps, activation=activation), SOURCE)
        found = SAE.load(whole.out / STEPS / f"{steps:09d}")
        assert found.provenance["step"] == steps
        for (name, weights), expected in zip(found.named_parameters(), shorter.parameters(), strict=True):
            # The threshold's rows are a share of the run's tokens.
            torch.testing.assert_close(weights, expected, rtol=0.1 if name == "threshold" else 0, atol=0)


def test_a_stopped_run_keeps_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = config(tmp_path / "straight", keep_steps=(10, 20))
    train(straight, SOURCE)
    stopped = config(tmp_path / "stopped", keep_steps=(10, 20))
    with monkeypatch.context() as patch:
        stop_at(12, patch)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, SOURCE)
    train(replace(stopped, keep_steps=(10, 20, 25)), SOURCE)  # more of them are no other run
    for name in ("000000010", "000000020"):
        one, other = (SAE.load(folder.out / STEPS / name) for folder in (straight, stopped))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert (stopped.out / STEPS / "000000025" / "cfg.json").is_file()


def test_what_a_run_has_passed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = config(tmp_path / "run", keep_steps=(10,))
    train(asked, SOURCE)
    train(asked, SOURCE)
    assert caplog.messages == []
    train(replace(asked, keep_steps=(5, 10, 20)), SOURCE)
    (message,) = caplog.messages
    assert message == (
        f"{asked.out} is finished, so that keep_steps cannot keep 5, 20 any more: of its steps there are 10; train"
        " again in another folder for those"
    )
    assert [path.name for path in (asked.out / STEPS).iterdir()] == ["000000010"]


def test_what_a_stopped_run_has_passed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = config(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(12, patch)
        with pytest.raises(KeyboardInterrupt):
            train(run, SOURCE)
    train(replace(run, keep_steps=(3, 20)), SOURCE)
    (message,) = caplog.messages
    assert "run is at step 7, so that keep_steps cannot keep 3 any more: none of its steps was kept; train" in message
    assert [path.name for path in (run.out / STEPS).iterdir()] == ["000000020"]


def stop_at(last: int, patch: pytest.MonkeyPatch) -> None:
    step = loop.train_step

    def stopping(state, *arguments, **options):  # type: ignore[no-untyped-def]
        if state.step == last:
            raise KeyboardInterrupt
        step(state, *arguments, **options)

    patch.setattr(loop, "train_step", stopping)


def test_dictionaries_over_places_too(tmp_path: Path) -> None:
    from saes.places import load_dictionary

    asked = places.config(tmp_path, "clt", "batchtopk", budget="all", keep_steps=(5,), tokens=256 * 8)
    train_dictionary(asked, places.source())
    assert load_dictionary(tmp_path / STEPS / "000000005").layout == asked.layout


@pytest.mark.parametrize("steps", [(0,), (30,), (5, 31)])
def test_steps_that_are_not_on_the_way(steps: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"keep_steps names {steps[-1]}; it must be from 1 to 29: the end is kept"):
        train(config(tmp_path, keep_steps=steps), SOURCE)


def test_the_command_takes_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--store", str(tmp_path), "--out", str(tmp_path / "sae"), "--site", "s", "--keep-steps", "1k,many"]
    assert run("train", *options) == 2
    assert "'many' is not a whole number of 1 or more" in capsys.readouterr().err
