"""Paths to write are tried when the command line is read, not after minutes of work."""

import re
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError

from interp.commands.options import OutFile, OutFolder

ROOT = Path(__file__).parents[3]
ON_LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="without a /proc, which takes no files")
app = App()


@app.default
def write(*, html: OutFile | None = None, out: OutFolder = Path("runs")) -> None: ...


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("--html", ".", "is a folder; name a file in it"),
        ("--html", "file/page.html", "file is a file, so that nothing can be written below it"),
        ("--out", "file", "is a file; name a folder"),
        ("--out", "file/run", "file is a file, so that nothing can be written below it"),
        pytest.param("--html", "/proc/new/page.html", "/proc may not be written", marks=ON_LINUX),
    ],
)
def test_what_cannot_be_written_is_told_at_once(option: str, path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CycloptsError) as refused:
        app([option, str(tmp_path / path)], print_error=False, exit_on_error=False)
    assert message in str(refused.value)


def test_what_can_be_written_is_taken(tmp_path: Path) -> None:
    (tmp_path / "old.html").touch()
    for file in ("old.html", "new.html", "below/new.html"):
        with pytest.raises(SystemExit) as ended:
            app(["--html", str(tmp_path / file), "--out", str(tmp_path)])
        assert ended.value.code == 0


def test_every_command_tries_its_paths() -> None:
    names = "out|html|report|figure|scratch|graphml|dot|neuronpedia|mib|json"
    for file in ROOT.glob("*/commands/**/*.py"):
        assert not re.search(rf"^\s+({names}): Path", file.read_text(), re.MULTILINE), file
