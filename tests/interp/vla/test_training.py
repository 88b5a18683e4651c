"""Training continues as if nothing had happened, and says what it will not do."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

pytest.importorskip("interp.vla.simulator", reason="needs pip install 'deepfield[vla]'", exc_type=ImportError)

from interp.vla.policy import demonstrations, training
from interp.vla.policy.demonstrations import demonstrate
from interp.vla.policy.experts import MAGNITUDE
from interp.vla.policy.policy import VLAPolicy, load_policy
from interp.vla.policy.training import Recipe, train
from interp.vla.policy.words import SPEEDS, TASKS

RECIPE = {"steps": 3, "language_steps": 1, "episodes": 4, "action_rows": 6, "question_rows": 3, "text_rows": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a camera that was never interrupted."""
    out = tmp_path_factory.mktemp("whole")
    train(Recipe(camera=32, **RECIPE), out, save_every=2)
    return out


def test_a_killed_run_gives_the_same_weights(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, shard = training._losses, demonstrations.SHARD

    def killed(policy: VLAPolicy, *args: object) -> dict[str, torch.Tensor]:
        if args[-1] == 2:
            raise KeyboardInterrupt
        return losses(policy, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_losses", killed)
    assert shard > RECIPE["episodes"]
    with pytest.raises(KeyboardInterrupt):
        train(Recipe(camera=32, **RECIPE), tmp_path, save_every=2)
    assert not (tmp_path / "policy.json").exists()
    monkeypatch.undo()
    train(Recipe(camera=32, **RECIPE), tmp_path, save_every=2)
    for name in ("policy.safetensors", "policy.json", "demonstrations/0000.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(ValueError, match=r"holds another run \(camera: there 32, asked None; seed: there 0, asked 1\)"):
        train(Recipe(seed=1, **RECIPE), tmp_path)


def test_damaged_files_are_made_again(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit in a demonstration would be learned, one in the saved state would be continued from."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("demonstrations/0000.safetensors", "state.safetensors"):
        content = bytearray((out / name).read_bytes())
        content[len(content) // 2] ^= 1
        (out / name).write_bytes(content)
    train(Recipe(camera=32, **RECIPE), out, save_every=2)
    assert (
        f"{out / 'demonstrations/0000.safetensors'} was altered: its checksum differs; making it again"
        in caplog.messages
    )
    assert (
        f"{out / 'state.safetensors'} was altered: its checksum differs; not used, training starts over"
        in caplog.messages
    )
    for name in ("policy.safetensors", "state.safetensors", "demonstrations/0000.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_two_processes_do_not_train_in_one_folder(whole: Path) -> None:
    with FileLock(whole / ".lock"), pytest.raises(ValueError, match="another run is writing"):
        train(Recipe(camera=32, **RECIPE), whole)


def test_every_part_learns(whole: Path) -> None:
    torch.manual_seed(0)
    new, trained = dict(VLAPolicy(load_policy(whole).policy_config).named_parameters()), load_policy(whole)
    assert all(not torch.equal(new[name], parameter) for name, parameter in trained.named_parameters())


def test_demonstrations_are_the_experts(whole: Path) -> None:
    shown = demonstrate(whole / "demonstrations", seed=0, camera=32, episodes=4)
    assert len(shown) == 4 * demonstrations.STEPS
    assert shown.image is not None
    assert shown.image.shape[1:] == (32, 32, 3)
    directed = [i for i in range(len(shown)) if TASKS[shown.task[i]] != "reach"]
    lengths = np.linalg.norm(shown.action[directed], axis=1)
    wanted = np.array([MAGNITUDE[list(SPEEDS)[shown.speed[i]]] for i in directed])
    assert np.allclose(lengths, wanted, atol=0.15)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"steps": 100}, "language_steps is 300; it must be from 0 to steps, 100"),
        ({"camera": 8}, "camera is 8 pixels; from 32 to 256"),
        ({"text_weight": -1.0}, "text_weight is -1.0; it must be 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong).check()  # type: ignore[arg-type]
