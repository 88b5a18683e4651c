"""Sweeps over checkpoints: resumed after kill -9, planted duplicates flagged, the hub played by a folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants

from interp import massive
from interp.checkpoints import sources as checkpoint_sources
from interp.checkpoints.schedules import PYTHIA_STEPS, choose_steps
from interp.checkpoints.sources import FolderSource, HubSource, open_source
from interp.massive.sweep_table import Results
from interp.massive.training_sweep import RESULTS, sweep
from interp.models.loading import load_model
from tests.interp.massive.planted import DIM, planted_model, planted_tokens
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]
STEPS = (0, 1, 2, 4, 8, 16)


def write_run(folder: Path, steps: tuple[int, ...] = STEPS) -> Path:
    """A training run whose massive activation grows with the step."""
    for seed, step in enumerate(steps):
        planted_model(write=float(step), seed=seed).save_pretrained(folder / f"step{step}")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every measurement, hence with every checkpoint that is run."""
    measured: list[str] = []

    def counting(model: Any, *arguments: Any, **options: Any) -> Any:
        measured.append(model.deepfield_source[0])
        return massive.layer_stats(model, *arguments, **options)

    monkeypatch.setattr("interp.massive.training_sweep.layer_stats", counting)
    return measured


def figures(run: massive.SweepRun) -> list[Any]:
    return [(row.step, row.measured.weights, row.measured.stats.values.tolist()) for row in run.table.rows]


def test_the_table_is_what_each_checkpoint_gives(run: Path, tmp_path: Path) -> None:
    found = sweep(str(run), planted_tokens(), tmp_path / "out")
    assert found.done == Counter({"measured": len(STEPS)})
    assert [row.step for row in found.table.rows] == list(STEPS)
    for row in found.table.rows:
        alone = massive.layer_stats(load_model(run, revision=f"step{row.step}"), planted_tokens())
        assert torch.equal(alone.values, row.measured.stats.values)
        assert torch.equal(alone.medians, row.measured.stats.medians)
        assert (row.suspect, row.identical_to, row.shares_blocks_with) == (False, (), ())
    steps, ratios = found.table.series()
    assert steps.tolist() == list(STEPS)
    assert ratios.shape == (4, len(STEPS))
    assert ratios[1, -1] > 10 * ratios[1, 0]
    assert ratios[1, -1] == pytest.approx(alone.ratio[1].value)
    assert found.table.series("median")[1][2, 3] == pytest.approx(found.table.rows[3].measured.stats.median[2].value)
    assert int(found.table.rows[-1].measured.stats.dims[1, 0, 0]) == DIM


def test_a_second_run_does_no_forward_pass(run: Path, tmp_path: Path, passes: list[str]) -> None:
    first = sweep(str(run), planted_tokens(), tmp_path / "out")
    content = (tmp_path / "out" / RESULTS).read_bytes()
    passes.clear()
    again = sweep(str(run), planted_tokens(), tmp_path / "out")
    assert passes == []
    assert again.done == Counter({"there already": len(STEPS)})
    assert figures(again) == figures(first)
    assert (tmp_path / "out" / RESULTS).read_bytes() == content


def test_other_tokens_or_dtype_are_measured_anew_beside_the_old(run: Path, tmp_path: Path, passes: list[str]) -> None:
    sweep(str(run), planted_tokens(), tmp_path / "out", steps="16")
    sweep(str(run), planted_tokens()[:2], tmp_path / "out", steps="16")
    sweep(str(run), planted_tokens(), tmp_path / "out", steps="16", dtype="bfloat16")
    assert len(passes) == 3
    table = sweep(str(run), planted_tokens()[:2], tmp_path / "out", steps="16").table
    assert table.measured[0].stats.values.shape == (4, 2, 3)


def test_weights_that_changed_on_disk_are_measured_anew(run: Path, tmp_path: Path, passes: list[str]) -> None:
    sweep(str(run), planted_tokens(), tmp_path / "out")
    passes.clear()
    planted_model(write=3.0, seed=9).save_pretrained(run / "step2")
    found = sweep(str(run), planted_tokens(), tmp_path / "out")
    assert len(passes) == 1
    assert len(found.table.rows) == len(STEPS)
    assert torch.equal(
        found.table.rows[2].measured.stats.values,
        massive.layer_stats(load_model(run, revision="step2"), planted_tokens()).values,
    )


@pytest.mark.parametrize("torn", [b"", b'{"kind": "measured", "mod'])
def test_an_interrupted_run_continues(
    torn: bytes, run: Path, tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acceptance 10: after k of n, n - k forward passes and the same table; a torn line is as if it were not there."""
    straight = sweep(str(run), planted_tokens(), tmp_path / "straight")
    passes.clear()

    def load(folder: Path, **options: Any) -> Any:
        if len(passes) == 4:
            raise KeyboardInterrupt
        return load_model(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr("interp.checkpoints.sweeping.load_model", load)
        with pytest.raises(KeyboardInterrupt):
            sweep(str(run), planted_tokens(), tmp_path / "out")
    with (tmp_path / "out" / RESULTS).open("ab") as file:
        file.write(torn)
    passes.clear()
    rest = sweep(str(run), planted_tokens(), tmp_path / "out")
    assert len(passes) == len(STEPS) - 4
    assert rest.done == Counter({"there already": 4, "measured": 2})
    assert figures(rest) == figures(straight)


def test_a_damaged_line_is_named(run: Path, tmp_path: Path) -> None:
    sweep(str(run), planted_tokens(), tmp_path / "out", steps="0,1")
    path = tmp_path / "out" / RESULTS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], ""]))
    with pytest.raises(ValueError, match=r"line 2 of .*results\.jsonl is damaged.*Delete that line"):
        sweep(str(run), planted_tokens(), tmp_path / "out")
    whole = json.loads(lines[1])
    for change in (
        {"step": "1"},
        {"step": None},
        {"sink_rate": "high"},
        {"blocks": "abc"},
        {"blocks": [1]},
        {"more": 1},
        {"stats": whole["stats"] | {"values": whole["stats"]["values"][1:]}},
        {"stats": whole["stats"] | {"dims": whole["stats"]["values"]}},
        {"stats": whole["stats"] | {"sites": "blocks.0"}},
        {"stats": None},
        {"kind": "missing"},
    ):
        path.write_text("\n".join([lines[0], json.dumps(whole | change), ""]))
        with pytest.raises(ValueError, match=r"line 2 of .*results\.jsonl is damaged: .*Delete that line"):
            Results(path)


def test_a_flipped_bit_is_named_and_lines_of_earlier_versions_are_read(
    run: Path, tmp_path: Path, passes: list[str]
) -> None:
    """A step, a figure: each would still be good JSON, and would be believed."""
    sweep(str(run), planted_tokens(), tmp_path / "out", steps="0,1")
    path = tmp_path / "out" / RESULTS
    first, second = path.read_bytes().splitlines(keepends=True)
    figure = second.index(b"values") + 14
    for place in (figure, second.index(b'"step"') + 8, second.index(b"sha256:") + 9):
        altered = bytearray(second)
        altered[place] ^= 1
        path.write_bytes(first + altered)
        with pytest.raises(ValueError, match=r"line 2 of .*results\.jsonl is damaged.*Delete that line"):
            sweep(str(run), planted_tokens(), tmp_path / "out")
    line = json.loads(second)
    assert line.pop("checksum").startswith("sha256:")
    path.write_bytes(first + json.dumps(line).encode() + b"\n")
    passes.clear()
    again = sweep(str(run), planted_tokens(), tmp_path / "out", steps="0,1")
    assert (again.done, passes) == (Counter({"there already": 2}), [])


def test_two_sweeps_do_not_share_a_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ValueError, match="another run is writing"):
        sweep(str(run), planted_tokens(), tmp_path / "out")


# Killed


def command(run: Path, ids: Path, out: Path) -> list[str]:
    arguments = ["massive", "sweep", str(run), "--data", str(ids), "--context", "32", "--out", str(out)]
    return [sys.executable, "-m", "interp", *arguments]


@pytest.mark.slow
def test_killed_again_and_again_it_repeats_nothing(tmp_path: Path) -> None:
    """SIGKILL after one, two and four lines; in the end every checkpoint was measured once and the table is right."""
    run = write_run(tmp_path / "run", tuple(range(0, 24, 2)))
    np.save(tmp_path / "ids.npy", planted_tokens().numpy().ravel().astype(np.uint16))
    options: dict[str, Any] = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}}
    straight = subprocess.run(
        command(run, tmp_path / "ids.npy", tmp_path / "straight"), capture_output=True, text=True, check=True, **options
    ).stdout
    assert "\n12 measured\n" in straight
    out = tmp_path / "out"
    lines = 0
    for more in (1, 2, 2):
        process = subprocess.Popen(
            command(run, tmp_path / "ids.npy", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        )
        deadline = time.monotonic() + PATIENCE
        while _lines(out) < lines + more:
            assert time.monotonic() < deadline
            assert process.poll() is None, "it finished before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        lines = _lines(out)
    last = subprocess.run(
        command(run, tmp_path / "ids.npy", out), capture_output=True, text=True, check=True, **options
    ).stdout
    assert f"\n{lines} there already, {12 - lines} measured\n" in last
    assert [line for line in last.splitlines() if "│" in line] == [x for x in straight.splitlines() if "│" in x]
    ours, theirs = (Results(folder / RESULTS).measured for folder in (out, tmp_path / "straight"))
    assert [(m.step, m.weights, m.stats.values.tolist()) for m in ours] == [
        (m.step, m.weights, m.stats.values.tolist()) for m in theirs
    ]
    assert len(ours) == 12


def _lines(out: Path) -> int:
    path = out / RESULTS
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Names that lie


def copy_step(run: Path, source: int, target: int) -> None:
    shutil.rmtree(run / f"step{target}", ignore_errors=True)
    shutil.copytree(run / f"step{source}", run / f"step{target}")


def test_planted_duplicates_are_flagged_and_left_out(run: Path, tmp_path: Path, passes: list[str]) -> None:
    """Steps 0 and 1 equal (nothing learned yet), and step 4 serves the weights of the end."""
    copy_step(run, 0, 1)
    copy_step(run, 16, 4)
    found = sweep(str(run), planted_tokens(), tmp_path / "out")
    assert len(passes) == 4, "equal weights are run once"
    assert found.done == Counter({"measured": 4, "same weights": 2})
    rows = {row.step: row for row in found.table.rows}
    assert {step: row.identical_to for step, row in rows.items() if row.identical_to} == {
        0: (1,),
        1: (0,),
        4: (16,),
        16: (4,),
    }
    assert [step for step, row in rows.items() if row.suspect] == [1, 4]
    assert found.table.series()[0].tolist() == [0, 2, 8, 16]
    assert found.table.series(suspect=True)[0].tolist() == list(STEPS)
    assert torch.equal(rows[4].measured.stats.values, rows[16].measured.stats.values)


def test_of_scattered_duplicates_none_is_trusted(run: Path, tmp_path: Path) -> None:
    copy_step(run, 1, 4)
    rows = sweep(str(run), planted_tokens(), tmp_path / "out").table.rows
    assert [row.step for row in rows if row.suspect] == [1, 4]


def test_shared_blocks_are_flagged(run: Path, tmp_path: Path) -> None:
    """A shard of another step: two blocks of step 2 are those of step 8."""
    mixed, other = planted_model(write=2.0, seed=2), planted_model(write=8.0, seed=4)
    for layer in (2, 3):
        mixed.gpt_neox.layers[layer].load_state_dict(other.gpt_neox.layers[layer].state_dict())
    mixed.save_pretrained(run / "step2")
    rows = sweep(str(run), planted_tokens(), tmp_path / "out").table.rows
    assert {row.step: row.shares_blocks_with for row in rows if row.suspect} == {2: (8,), 8: (2,)}


def test_frozen_blocks_are_no_reason_for_suspicion(tmp_path: Path) -> None:
    run, frozen = tmp_path / "run", planted_model().gpt_neox.layers[0].state_dict()
    for seed in range(4):
        model = planted_model(seed=seed)
        model.gpt_neox.layers[0].load_state_dict(frozen)
        model.save_pretrained(run / f"step{seed}")
    assert not any(row.suspect for row in sweep(str(run), planted_tokens(), tmp_path / "out").table.rows)


# Missing and broken


def test_missing_and_broken_checkpoints_are_recorded(run: Path, tmp_path: Path) -> None:
    (run / "step2" / "model.safetensors").write_bytes(b"not weights")
    told: list[str] = []
    found = sweep(str(run), planted_tokens(), tmp_path / "out", steps="0,2,3,16", tell=told.append)
    assert found.done == Counter({"measured": 2, "missing": 2})
    assert list(found.table.missing) == [3, 2]
    assert found.table.missing[3] == "no such revision"
    assert "could not be loaded" in found.table.missing[2]
    assert "step 3: missing, no such revision" in told
    planted_model(write=2.0, seed=2).save_pretrained(run / "step2")
    mended = sweep(str(run), planted_tokens(), tmp_path / "out", steps="0,2,3,16")
    assert mended.done == Counter({"there already": 2, "measured": 1, "missing": 1})
    assert list(mended.table.missing) == [3]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smollm2-135m", "has no training checkpoints"),
        ("./nowhere", "has no training checkpoints"),
        ("nobody/nothing", "neither a folder nor in the hub's cache, and the hub cannot be asked"),
    ],
)
def test_runs_that_are_none(model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(model)


def test_a_folder_without_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no step\{N\} folders"):
        FolderSource(tmp_path, name="x")


# Schedules


def test_schedules() -> None:
    assert len(PYTHIA_STEPS) == 154
    assert choose_steps("all", [4, 0, 2]) == [0, 2, 4]
    log = [0, *(2**i for i in range(10)), *(2000 * 2**i for i in range(7)), 143_000]
    assert choose_steps("log", PYTHIA_STEPS) == log
    paper = choose_steps("paper", PYTHIA_STEPS)
    assert len(paper) == 37
    assert paper[:12] == [0, *(2**i for i in range(10)), 1000]
    assert paper[-1] == 143_000
    assert set(np.diff(paper[11:])) <= {5000, 6000}
    assert choose_steps("paper", STEPS) == list(STEPS)
    assert choose_steps("7, 3,7", STEPS) == [3, 7]
    for wrong in ("some", "", "1,-2", "1;2"):
        with pytest.raises(ValueError, match="are neither all, log, paper nor a list"):
            choose_steps(wrong, STEPS)


# The hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache, offline, that holds main and step 1000 of Pythia-70m."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--EleutherAI--pythia-70m"
    (repo / "refs").mkdir(parents=True)
    for seed, name in enumerate(("main", "step1000")):
        commit = name[0] * 40
        planted_model(seed=seed).save_pretrained(repo / "snapshots" / commit)
        (repo / "refs" / name).write_text(commit)
    return repo


def test_offline_the_cache_is_swept_and_main_is_the_last_step(cache: Path, tmp_path: Path) -> None:
    found = sweep("pythia-70m", planted_tokens(), tmp_path / "out")
    assert [(row.step, row.measured.revision) for row in found.table.rows] == [(1000, "step1000"), (143_000, "main")]
    assert len(found.table.missing) == 152
    assert found.table.rows[0].measured.identity == f"commit:{'s' * 40}"
    assert (cache / "snapshots" / ("m" * 40) / "model.safetensors").exists(), "the cache is not ours to clean"


class FakeHub:
    """The hub's client, served from a folder; counts the checkpoints on the disk at every turn."""

    def __init__(self, run: Path, out: Path) -> None:
        self.run, self.out, self.most = run, out, 0

    def list_repo_refs(self, repo: str) -> Any:
        names = [*(path.name for path in self.run.glob("step*")), "step99", "main"]
        return SimpleNamespace(branches=[SimpleNamespace(name=name, target_commit=f"c-{name}") for name in names])

    def model_info(self, repo: str, *, revision: str, files_metadata: bool, timeout: float) -> Any:
        files = (self.run / revision.removeprefix("c-")).glob("*")
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=file.name, size=file.stat().st_size) for file in files]
        )

    def snapshot_download(self, repo: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        local_dir.mkdir(parents=True)
        self.look()
        for name in allow_patterns:
            shutil.copy(self.run / revision.removeprefix("c-") / name, local_dir / name)
        time.sleep(0.05)

    def look(self) -> None:
        self.most = max(self.most, len(list((self.out / "checkpoints").glob("*"))))


@pytest.fixture
def fake_hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(run, tmp_path / "out")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(checkpoint_sources, "HfApi", lambda: fake)
    monkeypatch.setattr(checkpoint_sources, "snapshot_download", fake.snapshot_download)
    return fake


@pytest.mark.parametrize(("checkpoints", "most"), [(None, 2), (10, 2), (1.5, 1)])
def test_never_more_than_two_checkpoints_on_the_disk(
    checkpoints: float | None, most: int, fake_hub: FakeHub, run: Path, tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in (run / "step1").iterdir())
    budget = None if checkpoints is None else int(checkpoints * size)
    found = sweep(HubSource("someone/run"), planted_tokens(), tmp_path / "out", budget=budget)
    assert fake_hub.most == most
    assert found.done == Counter({"measured": len(STEPS), "missing": 1})
    assert found.table.missing == {99: "the revision holds no weights"}
    assert not (tmp_path / "out" / "checkpoints").exists()
    local = sweep(str(run), planted_tokens(), tmp_path / "local")
    assert figures(local) == figures(found)


def test_a_checkpoint_beyond_the_budget(fake_hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step0 of someone/run takes 0\.00 GB, more than the budget of 0\.00 GB"):
        sweep(HubSource("someone/run"), planted_tokens(), tmp_path / "out", budget=1000)


def test_what_a_killed_run_left_on_the_disk_is_removed(fake_hub: FakeHub, tmp_path: Path) -> None:
    left = tmp_path / "out" / "checkpoints" / "step7"
    left.mkdir(parents=True)
    sweep(HubSource("someone/run"), planted_tokens(), tmp_path / "out", steps="0")
    assert not left.exists()


def test_lines_are_plain_json(run: Path, tmp_path: Path) -> None:
    sweep(str(run), planted_tokens(), tmp_path / "out", steps="0")
    line = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert line["kind"] == "measured"
    assert line["step"] == 0
    assert len(line["stats"]["values"]) == 4
