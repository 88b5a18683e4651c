"""The commands about training: one model or its checkpoints, killed and continued, given nonsense."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclopts import App
from transformers import AutoModelForCausalLM

from interp.commands.dynamics import clamp, codes, gains, kernel, monitor
from interp.embedded import TEXT_FOLDER
from interp.terminal.mode import in_command
from tests.tiny_models import CONFIGS, VOCAB

ROWS = ["--data", str(TEXT_FOLDER / "heldout.jsonl"), "--sequences", "2", "--context", "16"]
APPS = {"codes": codes.app, "monitor": monitor.app, "gains": gains.app, "clamp": clamp.app, "kernel": kernel.app}


def call(app: App, *line: str) -> None:
    with in_command():
        app(list(line), print_error=False, exit_on_error=False, result_action="return_value")


@pytest.mark.parametrize("name", APPS)
def test_one_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(APPS[name], "embedded", *ROWS, "--html", str(tmp_path / "page.html"))
    assert "2 rows of 16 tokens" in capsys.readouterr().out
    assert "figcaption" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("name", APPS)
def test_checkpoints(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["embedded", *ROWS, "--steps", "0,128", "--out", str(tmp_path)]
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
        (["embedded", "--data", "repeated", "--context", "300"], "rows of repeated tokens have 5 to 256 here"),
        (["embedded", *ROWS[:2], "--sequences", "0"], "sequences is 0; it must be 1 or more"),
    ],
)
def test_nonsense(line: list[str], message: str, tmp_path: Path) -> None:
    out: Any = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        call(monitor.app, *line, "--out", str(out))
    assert not out.is_dir() or not list(out.glob("*.html"))


def test_gains_over_widths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="of two widths or more"):
        call(gains.app, "embedded", "embedded", *ROWS)
    with pytest.raises(ValueError, match="are for one model"):
        call(gains.app, "embedded", "embedded", *ROWS, "--steps", "0")
    np.save(tmp_path / "ids.npy", np.arange(64, dtype=np.uint16) % VOCAB)
    for width in (32, 64, 128):
        config = copy.deepcopy(CONFIGS["gpt_neox"])
        config.hidden_size = width
        with torch.no_grad():
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                parameter.copy_(torch.eye(*parameter.shape) * width if parameter.ndim == 2 else parameter)
        model.save_pretrained(tmp_path / str(width))
    models = [str(tmp_path / width) for width in ("32", "64", "128")]
    call(gains.app, *models, "--data", str(tmp_path / "ids.npy"), *ROWS[2:])
    said = capsys.readouterr().out
    assert "Gains of 3 models, one after the other" in said
    lines = [line.split() for line in said.splitlines() if " out " in f" {line} "]
    assert lines[0][2::2][:4] == ["32", "64", "128", "1.000"]


def test_clamps_of_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    call(clamp.app, "embedded", "--data", "repeated", "--sequences", "2", "--spec", "ablate:2.1", "--context", "41")
    lines = capsys.readouterr().out
    assert "2 rows of 41 tokens" in lines
    assert "ablate:2.1" in lines
    with pytest.raises(ValueError, match=r"'forget:2.1' in 'forget:2.1' is no clamp"):
        call(clamp.app, "embedded", "--data", "repeated", "--spec", "forget:2.1")
