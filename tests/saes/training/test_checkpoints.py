"""What is left in a run folder by kills, flipped bits, full disks and a second process, and what the next run does."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

from saes import SAE, TrainConfig, train
from saes.training import loop
from tests.saes.sources import MemorySource, planted

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("one_thread")
STEPS, STOPPED_AT = 12, 10


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Checkpoints at steps 3, 6, 9 and 12, of which the last two stay."""
    return TrainConfig(
        site="s",
        out=tmp_path / "run",
        k=4,
        d_sae=64,
        tokens=STEPS * 100,
        batch_size=100,
        checkpoint_every=3,
        log_every=1,
    )


@pytest.fixture
def source() -> MemorySource:
    return MemorySource(planted(500, d=32)[0])


@pytest.fixture
def straight(config: TrainConfig, source: MemorySource, tmp_path: Path) -> SAE:
    return train(replace(config, out=tmp_path / "straight"), source)


@pytest.fixture
def stopped(config: TrainConfig, source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ended at step 10; the checkpoints of steps 6 and 9."""
    step = loop.train_step

    def stepping(state: Any, *arguments: object, **options: object) -> None:
        if state.step == STOPPED_AT:
            raise KeyboardInterrupt
        step(state, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stepping)
        with pytest.raises(KeyboardInterrupt):
            train(config, source)
    assert checkpoints(config.out) == [6, 9]
    return config.out


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step")) for path in (folder / "checkpoints").iterdir())


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step{step:09d}.safetensors"


def flip_a_bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x40
    path.write_bytes(content)


def assert_equal(one: SAE, other: SAE) -> None:
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_shapes(path: Path) -> None:
    save_file({"silent": torch.zeros(3)}, path, metadata={"state": "{}"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "was altered: its checksum differs"),
        (cut, "is truncated|is damaged|was altered"),
        (empty, "is truncated: 0 bytes"),
        (other_shapes, "does not hold the weights and moments of this run"),
    ],
)
@pytest.mark.parametrize("steps", [[9], [6, 9]], ids=["newest", "all"])
def test_a_damaged_checkpoint_is_told_and_not_used(
    damage: object,
    message: str,
    steps: list[int],
    config: TrainConfig,
    source: MemorySource,
    stopped: Path,
    straight: SAE,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for step in steps:
        damage(checkpoint(stopped, step))  # type: ignore[operator]
    with (stopped / "log.jsonl").open("a") as log:  # damaged as well: lines that no reader takes
        log.write("[" * 100_000 + "\nnull\n{\n")
    assert_equal(train(config, source), straight)
    lines = [line for line in caplog.messages if "continuing from" in line]
    assert len(lines) == len(steps)
    for step, line in zip(reversed(steps), lines, strict=True):
        assert pytest.raises(ValueError, match=message).matches(ValueError(line)), line
        assert line.startswith(str(checkpoint(stopped, step)))
        assert line.endswith(f"not used: continuing from step {0 if len(steps) == 2 else 6}")
    assert checkpoints(stopped) == [9, 12]
    assert len((stopped / "log.jsonl").read_text().splitlines()) == STEPS


def test_a_checkpoint_of_an_earlier_version_is_continued_from(
    config: TrainConfig, source: MemorySource, stopped: Path, straight: SAE, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint(stopped, 9)
    with safe_open(path, framework="pt") as file:
        tensors, state = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["state"]  # noqa: SIM118
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"state": state})
    checkpoint(stopped, 6).unlink()
    assert_equal(train(config, source), straight)
    assert "continuing from" not in caplog.text


def test_what_a_kill_left_is_cleaned_when_the_run_is_claimed_again(
    config: TrainConfig, source: MemorySource, stopped: Path, straight: SAE
) -> None:
    """Between rename and unlink three checkpoints are there; a kill while one is written leaves a hidden one."""
    shutil.copy(checkpoint(stopped, 6), checkpoint(stopped, 3))
    left = [
        stopped / ".log.jsonl.123.partial",
        stopped / ".sae_weights.safetensors.123.partial",
        stopped / "checkpoints" / ".step000000012.safetensors.123.partial",
        stopped / "checkpoints" / ".tmpAb3dE6",  # safetensors' own
    ]
    for path in left:
        path.write_bytes(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_loop", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, source)
    assert checkpoints(stopped) == [6, 9]
    assert not [path for path in left if path.exists()]
    assert_equal(train(config, source), straight)


def test_two_processes_do_not_train_in_one_folder(config: TrainConfig, source: MemorySource, stopped: Path) -> None:
    before = sorted(path.name for path in stopped.rglob("*"))
    with FileLock(stopped / ".lock"), pytest.raises(ValueError, match=f"another run is writing {stopped}; wait for it"):
        train(config, source)
    assert sorted(path.name for path in stopped.rglob("*")) == before
    train(config, source)
    with FileLock(stopped / ".lock"):  # a finished run is only read
        train(config, source)


def test_an_sae_from_elsewhere_is_not_taken_for_the_run(
    config: TrainConfig, source: MemorySource, straight: SAE
) -> None:
    straight.save(config.out)
    with pytest.raises(ValueError, match=r"holds an SAE that no run there has made \(no train.json\)"):
        train(config, source)
    assert not (config.out / "train.json").exists()


def test_the_log_is_on_the_disk_before_the_checkpoint_that_relies_on_it(
    config: TrainConfig, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a new folder's name before anything in it counts: every flush and rename, in order."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def flushing(descriptor: int) -> None:
        events.append(f"flush {os.path.relpath(Path(f'/proc/self/fd/{descriptor}').readlink(), config.out)}")
        fsync(descriptor)

    def renaming(path: Path, target: Path) -> Path:
        events.append(f"rename {os.path.relpath(target, config.out)}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(Path, "replace", renaming)
    train(config, source)
    assert events[0] == "flush .."
    for step in (3, 6, 9, 12):
        at = events.index(f"rename checkpoints/step{step:09d}.safetensors")
        since = events[max(i for i in range(at) if events[i].startswith("rename")) : at]
        assert "flush log.jsonl" in since
        assert since.index("flush log.jsonl") < since.index("flush .", since.index("flush log.jsonl"))
    last = events.index("rename sae_weights.safetensors")
    assert "flush log.jsonl" in events[events.index("rename checkpoints/step000000012.safetensors") : last]
    assert events.index("flush .", 1) < events.index("rename checkpoints/step000000003.safetensors")


FULL_DISK = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from typing import Any
import torch
from saes import TrainConfig, train
from tests.saes.sources import MemorySource, planted
torch.set_num_threads(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
config = TrainConfig(site="s", out=Path(), k=4, d_sae=64, tokens=1200, batch_size=100, log_every=1)
for limit, every in ((2_000, 100), (40_000, 3), (15_000, 100)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        train(replace(config, out=Path(sys.argv[1], str(limit)), checkpoint_every=every),
              MemorySource(planted(500, d=32)[0]))
    except OSError as error:
        print(error.errno, error)
"""


def test_a_full_disk_is_a_sentence_and_the_run_continues(
    tmp_path: Path, config: TrainConfig, source: MemorySource, straight: SAE
) -> None:
    """At three sizes: of the log, of a checkpoint, and of the SAE itself."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    log, checkpointing, saving = ran.stdout.splitlines()
    for line, name in (
        (log, "2000/log.jsonl"),
        (checkpointing, "40000/checkpoints/step000000003.safetensors"),
        (saving, "15000/sae_weights.safetensors"),
    ):
        assert line.startswith(f"{errno.EFBIG} ")
        assert f"no room on the disk for {tmp_path / name} (File too large): what was complete" in line
    assert not list(tmp_path.rglob("*.partial"))
    for folder, every in (("2000", 100), ("40000", 3), ("15000", 100)):
        assert_equal(train(replace(config, out=tmp_path / folder, checkpoint_every=every), source), straight)
