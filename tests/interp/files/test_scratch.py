"""Temporary folders: gone at the end, on SIGTERM, and after SIGKILL when the next one is made."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from interp.files.scratch import scratch_folder

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pathlib import Path
from interp.files.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_text("x" * 1000)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, here and in processes started from here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_is_gone_at_the_end_and_after_an_error(place: Path) -> None:
    with scratch_folder() as folder:
        (folder / "a").write_text("a")
        assert place in folder.parents
    assert not list(place.iterdir())
    with pytest.raises(KeyboardInterrupt), scratch_folder():
        raise KeyboardInterrupt
    assert not list(place.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_one_and_what_is_in_use_stays(place: Path) -> None:
    """Folders of others that happen to be called so have no lock, and stay as well."""
    (place / "deepfield-thesis").mkdir()
    (place / "deepfield-thesis" / "chapter.tex").write_text("precious")
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
        assert len(list(place.glob("*/files/large"))) == 2
        holders[0].kill()
        holders[0].wait()
        assert len(list(place.glob("*/files/large"))) == 2
        with scratch_folder():
            assert len(list(place.glob("*/files/large"))) == 1
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
    with scratch_folder():
        assert not list(place.glob("*/files/large"))
    assert [path.name for path in place.iterdir()] == ["deepfield-thesis"]


def test_sigterm_leaves_nothing(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A command that is at work: no temporary folder, nothing half-written."""
    work = tmp_path_factory.mktemp("work")
    (work / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20_000)
    sites, data, out = "blocks.1.hook_resid_post", str(work / "text.txt"), work / "acts"
    arguments = ["cache", "embedded", "--sites", sites, "--data", data, "--tokens", "10M", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "interp", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    while not list(place.glob("deepfield-*/files")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "ended by SIGTERM" in told
    assert "Traceback" not in told
    assert not list(place.glob("deepfield-*"))
    assert not list(work.rglob("*.partial"))
