"""Several processes against one: equal weights and figures, with the rows shared, the latents shared, and both."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import processes
from interp.processes import Processes
from saes import train
from saes.activations import ACTIVATIONS
from saes.places import load_any
from saes.training import loop, train_all
from saes.training.checkpoints import claim
from saes.training.stepping.state import TrainState
from tests.patience import PATIENCE
from tests.saes.distributed.runs import BOTH_WAYS, CASES, STEPS, config, shares_latents, source
from tests.two_processes import run_two

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "DEEPFIELD_TRACEBACK": ""}
RUNS = [sys.executable, "-m", "tests.saes.distributed.runs"]
# Measured: below 1e-6. What rounding does to a gradient near zero, Adam's division by its size makes larger.
ATOL = {"muon": 3e-4}
"""1e-5 of the others. Muon rounds to bfloat16 on its way: what is rounded the other way moves on by a 256th."""


def torchrun(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}", "--standalone"]
    command = [*launcher, "-m", "tests.saes.distributed.runs", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, timeout=PATIENCE, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on this process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, (activation, changes) in CASES.items():
        train_all([config(folder / name, activation, **changes)], source())
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on two processes, both ways."""
    folder = tmp_path_factory.mktemp("two")
    activation, changes = CASES["continued"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted(loop.train_step))
        for shards in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                train(config(folder / f"continued-{shards}", activation, **changes), source())
    ended = torchrun(2, str(folder))
    assert ended.returncode == 0, ended.stderr
    return folder


def interrupted(step: Callable[..., None]) -> Callable[..., None]:
    def stepping(state: TrainState, *arguments: Any, **options: Any) -> None:
        if state.step == 11:
            raise KeyboardInterrupt
        step(state, *arguments, **options)

    return stepping


def assert_equal(one: Path, other: Path) -> None:
    expected, found = load_any(one), load_any(other)
    assert expected.provenance == found.provenance
    atol = ATOL.get(one.name, 1e-5)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            found.get_parameter(name), parameter, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def figures(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_table_has_every_variant() -> None:
    assert {activation for activation, _ in CASES.values()} == set(ACTIVATIONS)


@pytest.mark.parametrize(
    ("case", "shards"),
    [
        pytest.param(case, shards, id=f"{case}-{name}")
        for case in CASES
        for shards, name in ((1, "rows"), (2, "latents"))
        if shards == 1 or shares_latents(case)
    ],
)
def test_two_processes_train_what_one_trains(case: str, shards: int, alone: Path, two: Path) -> None:
    assert_equal(alone / case, two / f"{case}-{shards}")
    expected, found = figures(alone / case), figures(two / f"{case}-{shards}")
    assert len(expected) == len(found) == STEPS
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert other["fvu"] == one["fvu"] is None or one["step"] % 3, "the last batch of an epoch is one row"
        unknown = {name for name, value in one.items() if value is None}
        assert unknown == {name for name, value in other.items() if value is None}
        for name in one.keys() - {"tokens_per_second", *unknown}:
            rel = 10 * ATOL.get(case, 1e-5)
            assert other[name] == pytest.approx(one[name], rel=rel, abs=1e-6), (name, one["step"])


@pytest.mark.parametrize("case", CASES)
def test_the_table_exercises_clipping_and_dead_latents(case: str, alone: Path) -> None:
    log = figures(alone / case)
    assert any(line["gradient_norm"] > 0.3 for line in log)
    asked = config(alone / case, CASES[case][0], **CASES[case][1])
    revives = "aux" in asked.weights(asked.build_activation())
    assert any("aux" in line for line in log) == revives


@pytest.mark.slow
def test_four_processes_share_rows_and_latents(alone: Path, tmp_path: Path) -> None:
    ended = torchrun(4, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    for case in BOTH_WAYS:
        assert_equal(alone / case, tmp_path / f"{case}-2")


def test_one_process_continues_where_two_were_killed(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert "SIGKILL" in torchrun(2, str(folder), "jumprelu", "2", "killed").stderr
    assert [path.stem for path in (folder / "checkpoints").iterdir()] == ["step000000007"]
    activation, changes = CASES["jumprelu"]
    train(config(folder, activation, **changes), source())
    assert_equal(alone / "jumprelu", folder)
    assert [line["step"] for line in figures(folder)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("failing", "message"),
    [(1, "process 1 of 2 failed: no more"), (0, r"process 0 of 2 failed: .* holds another run \(train.k: there 5")],
)
def test_an_error_on_one_process_ends_the_other(failing: int, message: str, tmp_path: Path) -> None:
    """Without torchrun, which would end it itself: the message reaches the process that waits in a sum."""
    if failing == 0:
        with claim(tmp_path, {"train": config(tmp_path, "topk", k=5).to_json(), "source": {}}):
            pass
    command = [*RUNS, str(tmp_path), "topk", "1", "fails"]
    statuses, errors = run_two(command, cwd=ROOT, environment=ENVIRONMENT)
    assert statuses == [1, 1]
    assert re.search(message, errors[1 - failing])
    assert not re.search(message, errors[failing])


@pytest.mark.parametrize(("how", "killed"), [pytest.param("first", 0, marks=pytest.mark.slow), ("killed", 1)])
def test_a_killed_process_is_missed_in_words(how: str, killed: int, tmp_path: Path) -> None:
    """Started by hand: what gloo says of a closed connection is no news to anyone."""
    command = [*RUNS, str(tmp_path), "topk", "1", how]
    statuses, errors = run_two(command, cwd=ROOT, environment=ENVIRONMENT)
    assert statuses[killed] == -signal.SIGKILL
    assert statuses[1 - killed] == 1
    message = errors[1 - killed].strip().splitlines()[-1]
    assert re.search(
        rf"ValueError: process {1 - killed} of 2 lost .*, which ended without a word .*start the same command again",
        message,
    )


@pytest.mark.parametrize(
    ("shards", "d_sae", "message"),
    [
        (2, 97, "d_sae is 97, which latent_shards = 2 does not divide: .* choose 96 or 98"),
        (4, 1, "latent_shards is 4, which does not divide the 2 processes of this run: start a multiple of 4"),
    ],
)
def test_what_cannot_be_shared_evenly(
    shards: int, d_sae: int, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "current", lambda: Processes(0, 2))
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, "topk", d_sae=d_sae, latent_shards=shards), source())
