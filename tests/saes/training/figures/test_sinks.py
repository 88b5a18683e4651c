"""Figures reach the real tools, in their offline modes, and a tool that fails does not stop the training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saes import SAE, TrainConfig, train
from saes.training.figures import sinks
from tests.patience import PATIENCE
from tests.saes.sources import MemorySource, planted


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(site="s", out=tmp_path / "run", k=4, d_sae=32, tokens=20 * 64, batch_size=64, log_every=5)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource(planted(300, d=16, features=24)[0])


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_tensorboard_holds_the_log(config: TrainConfig, source: MemorySource) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(replace(config, log_to=("tensorboard",)), source)
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    rows = logged(config.out)
    for name in ("fvu", "l0", "loss", "tokens_per_second"):
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-6)


def test_wandb_takes_the_log_offline(
    config: TrainConfig, source: MemorySource, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(replace(config, log_to=("wandb",)), source)
    (file,) = (config.out / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"tokens_per_second" in file.read_bytes()
    assert "gets no more figures" not in capfd.readouterr().err


def test_trackio_holds_the_log(config: TrainConfig, source: MemorySource, tmp_path: Path) -> None:
    import sqlite3
    import subprocess
    import sys

    # Where trackio keeps its files is read when it is imported, hence another process.
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path;"
        "from saes import TrainConfig, train; from tests.saes.sources import MemorySource, planted;"
        "train(TrainConfig(site='s', out=Path(sys.argv[1]), k=4, d_sae=32, tokens=20 * 64, batch_size=64, log_every=5,"
        " log_to=('trackio',)), MemorySource(planted(300, d=16, features=24)[0]))"
    )
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(config.out)],
        cwd=Path(__file__).parents[4],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "gets no more figures" not in done.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by step").fetchall()
    expected = {row["step"]: row["fvu"] for row in logged(config.out)}
    assert {step: json.loads(metrics)["fvu"] for step, metrics in rows} == pytest.approx(expected)


@pytest.mark.parametrize("when", ["open", "write", "close"])
def test_a_sink_that_fails_is_dropped(
    when: str,
    config: TrainConfig,
    source: MemorySource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("no server")

    def opened(*_: object) -> sinks.Sink:
        if when == "open":
            fail()
        return sinks.Sink(fail if when == "write" else lambda *_: None, fail if when == "close" else lambda: None)

    monkeypatch.setattr(sinks, "SINKS", {"wandb": opened})
    sae = train(replace(config, log_to=("wandb",)), source)
    assert caplog.messages.count("wandb gets no more figures of this run: ConnectionError no server") == 1
    assert len(logged(config.out)) == 4
    # Who is told of a run does not make it another one.
    again = train(config, source)
    assert isinstance(again, SAE)
    assert torch.equal(again.W_enc, sae.W_enc)


def test_unknown_sinks_are_refused(config: TrainConfig, source: MemorySource) -> None:
    with pytest.raises(ValueError, match="log_to names mlflow; there are tensorboard, wandb, trackio"):
        train(replace(config, log_to=("mlflow",)), source)
