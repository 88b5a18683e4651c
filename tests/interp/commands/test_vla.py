"""``interp vla``: the report and the film from the command line, and what it says where something is missing."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from interp.cli import main

SMALL = ["--episodes", "2", "--steps", "3", "--sets", "3", "--top", "4", "--doses", "2", "--value", "3"]


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["vla", *arguments])
    assert stopped.value.code == 0


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["vla", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_without_the_extra_every_command_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    monkeypatch.delitem(sys.modules, "interp.vla.simulator", raising=False)
    for command in ("train", "evaluate", "render"):
        assert "pip install 'deepfield[vla]'" in failure(capsys, command, "--out", str(tmp_path / "x.gif"))
    assert not list(tmp_path.iterdir())


def test_evaluate_writes_a_report_and_measures_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("interp.vla.simulator", reason="needs pip install 'deepfield[vla]'", exc_type=ImportError)
    figure = tmp_path / "dose.svg"
    run("evaluate", "--out", str(tmp_path), "--figure", str(figure), *SMALL)
    found = json.loads((tmp_path / "study.json").read_text())
    assert [each["value"] for each in found["doses"]] == [2.0, 3.0]
    assert all(len(each["random"]) == 3 for each in found["doses"])
    assert set(found["scopes"]) == {"move up", "move left"}
    assert set(found["layers"]) == {"all", "early", "late"}
    assert found["doses"][1]["p"] >= 1 / 4
    page = (tmp_path / "report.html").read_text()
    assert "data:image/gif;base64," in page
    assert "Wilson" in page
    assert figure.read_text().startswith("<svg")
    plan, *_, answered, where = capsys.readouterr().out.splitlines()
    assert plan.startswith("2 episodes of 3 steps for each of 3 random sets, of 2 strengths")
    assert answered.startswith(
        f"'move up', strength 3 of 'fast': {found['doses'][1]['effect']['value']:+.2f} mm a step"
    )
    assert found["doses"][1]["verdict"] in answered
    assert where == f"The report is {tmp_path / 'report.html'}: open it in a browser."

    measured = tmp_path / "measured.json"
    before = measured.stat().st_mtime_ns
    run("evaluate", "--out", str(tmp_path), *SMALL)
    assert measured.stat().st_mtime_ns == before
    again = json.loads((tmp_path / "study.json").read_text())
    assert again | {"date": found["date"]} == found

    measured.write_text(measured.read_text().replace("0.", "1.", 1))
    told = failure(capsys, "evaluate", "--out", str(tmp_path), *SMALL)
    assert f"{measured} was altered: its checksum differs. Delete it" in told


def test_render_films_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("interp.vla.simulator", reason="needs pip install 'deepfield[vla]'", exc_type=ImportError)
    for name in ("film.gif", "film.mp4"):
        run("render", "--out", str(tmp_path / name), "--steps", "2")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        assert film.width == 4 * 224
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_mistake_is_told_with_its_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("interp.vla.simulator", reason="needs pip install 'deepfield[vla]'", exc_type=ImportError)
    assert "should end in .gif or .mp4" in failure(capsys, "render", "--out", "film.avi")
    assert "'angry' is no concept" in failure(capsys, "evaluate", "--concept", "angry", "--out", str(tmp_path))
    assert "no policy in nowhere" in failure(capsys, "evaluate", "nowhere", "--out", str(tmp_path))
