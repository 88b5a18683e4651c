"""The commands about training: one model or its checkpoints, killed and continued, given nonsense."""

from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from interp.commands.dynamics import monitor
from interp.embedded import TEXT_FOLDER

ROWS = ["--data", str(TEXT_FOLDER / "heldout.jsonl"), "--sequences", "2", "--context", "32"]
APPS = {"monitor": monitor.app}


def call(app: App, *line: str) -> None:
    app(list(line), print_error=False, exit_on_error=False, result_action="return_value")


@pytest.mark.parametrize("name", APPS)
def test_one_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(APPS[name], "embedded", *ROWS, "--report", str(tmp_path / "page.html"))
    assert "2 rows of 32 tokens" in capsys.readouterr().out
    assert "figcaption" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("name", APPS)
def test_checkpoints(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["embedded", *ROWS, "--steps", "0,5792", "--out", str(tmp_path)]
    call(APPS[name], *line)
    assert "2 measured" in capsys.readouterr().out
    call(APPS[name], *line)
    assert "2 there already" in capsys.readouterr().out
    assert "over the training of embedded" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["embedded", *ROWS, "--steps", "some"], "steps 'some' are neither all, log, paper nor a list"),
        (["embedded", *ROWS, "--steps", "0", "--budget", "much"], "--budget is 'much'; it must be a size"),
        (["smollm2-135m", *ROWS, "--steps", "all"], "has no training checkpoints"),
        (["embedded", *ROWS[:2], "--sequences", "0"], "sequences is 0; it must be 1 or more"),
    ],
)
def test_nonsense(line: list[str], message: str, tmp_path: Path) -> None:
    out: Any = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        call(monitor.app, *line, "--out", str(out))
    assert not out.is_dir() or not list(out.glob("*.html"))
