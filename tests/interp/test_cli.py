"""The command line: commands are found by entry points, and a mistake ends in a message, never in a traceback."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from interp.cli import main
from tests.patience import PATIENCE

PLANTED = """
import logging
import time
from cyclopts import App
app = App(name="planted")

@app.command
def wrong():
    raise ValueError("k=0 is not allowed; use 1 or more")

@app.command
def full():
    raise OSError(28, "No space left on device", "/data/shard")

@app.command
def note():
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("planted_commands.deep").log(level, "level %d", level)

@app.command
def wait(seconds: float):
    print("waiting", flush=True)
    time.sleep(seconds)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal on this platform")
def test_a_bus_error_says_where_it_came_from() -> None:
    """As when a mapped file is cut: otherwise the process ends without a word."""
    code = (
        "import os, signal\nfrom interp.cli import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
    )
    code += "def reads_the_shard():\n    os.kill(os.getpid(), signal.SIGBUS)\nreads_the_shard()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGBUS
    assert "Bus error" in ended.stderr
    assert "in reads_the_shard" in ended.stderr


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another distribution that registers one good command and one whose module is missing."""
    (tmp_path / "planted_commands.py").write_text(PLANTED)
    info = tmp_path / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[deepfield.commands]\nplanted = planted_commands:app\nlost = planted_nowhere:app\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code


def test_an_unknown_command_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nonsense") == 2
    errors = capsys.readouterr().err
    assert 'Unknown command "nonsense"' in errors
    assert "doctor" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "requires an argument"),
        (["planted", "wait"], "requires an argument"),
        (["planted", "wait", "long"], "unable to convert"),
        (["doctor", "--jsom"], "--jsom"),
    ],
)
def test_missing_and_wrong_options(
    planted: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert message in " ".join(shown.err.split())
    assert shown.out == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [("wrong", "error: k=0 is not allowed; use 1 or more\n"), ("full", "No space left on device: '/data/shard'\n")],
)
def test_a_mistake_found_by_the_command_is_one_line(
    planted: Path, command: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("planted", command) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    monkeypatch.setenv("DEEPFIELD_TRACEBACK", "1")
    with pytest.raises((ValueError, OSError)):
        main(["planted", command])


def test_what_the_library_logs_is_shown_by_a_command_alone(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("planted_commands").level
    assert run("planted", "note") == 0
    assert capsys.readouterr().err.splitlines()[-2:] == ["level 20", "level 30"]
    logger = logging.getLogger("planted_commands")
    assert (logger.handlers, logger.level) == ([], before)


def test_a_command_that_cannot_be_imported_does_not_take_the_others_along(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("planted", "wait", "0") == 0
    shown = capsys.readouterr()
    assert shown.out == "waiting\n"
    assert "warning: the command 'lost' is missing: No module named 'planted_nowhere'" in shown.err


# Where the tests run in the background of a shell, it has interrupts ignored, and so would its children.
AT_THE_KEYBOARD = """
import signal, sys
from interp.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main(sys.argv[1:])
"""


def test_control_c_of_what_saves_nothing_promises_nothing(planted: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AT_THE_KEYBOARD, "planted", "wait", "60"],
        env=os.environ | {"PYTHONPATH": str(planted)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
