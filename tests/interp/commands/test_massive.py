"""``interp massive`` given nonsense: one line that names it and what to do, and nothing written."""

from pathlib import Path

import pytest

from interp.cli import main
from interp.embedded import TEXT_FOLDER

DATA = ["embedded", "--data", str(TEXT_FOLDER / "heldout.jsonl")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([*DATA, "--sequences", "0"], "sequences is 0; it must be 1 or more"),
        ([*DATA, "--top", "0"], "top is 0; it must be 1 or more"),
        (["intervene", *DATA, "--to", "half"], "--to is 'half'; it must be zero, mean or a number"),
        (["intervene", *DATA, "--layer", "1"], "--layer, --position and --dim together"),
        (["sweep", *DATA, "--budget", "much"], "--budget is 'much'; it must be a size such as 5GB"),
        (["sweep", *DATA, "--steps", "some"], "steps 'some' are neither all, log, paper nor a list"),
    ],
)
def test_nonsense(line: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["massive", *line, *(["--out", str(out)] if line[0] == "sweep" else [])])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.is_dir() or not list(out.iterdir())
