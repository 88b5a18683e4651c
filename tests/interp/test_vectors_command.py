"""``interp vectors`` from the words to the steered text, on the embedded model."""

import json
import re
from pathlib import Path

import pytest

from interp.cli import main


def test_from_words_to_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster, page = tmp_path / "seem.json", tmp_path / "seem.html"
    find = ["vectors", "find", "embedded", "--words", "seems,wants", "--method", "logit", "--top", "5"]
    main([*find, "--layers", "2,3", "--out", str(cluster), "--html", str(page)])
    kept = json.loads(cluster.read_text())
    assert kept["model"] == "embedded"
    assert {member["layer"] for member in kept["members"]} <= {2, 3}
    assert "' seems'" in capsys.readouterr().out
    html = page.read_text()
    assert html.count("<tr>") == 6
    assert '<table class="interactive">' in html

    steer = ["vectors", "steer", "embedded", "--cluster", str(cluster), "--prompt", "She", "--tokens", "5", "--value"]
    main([*steer, "20", "--neutral", "interp/embedded/text/heldout.jsonl"])
    said = capsys.readouterr().out
    without, steered = re.search(r"without: (.*)\nsteered: (.*)\n", said).groups()
    assert without != steered
    assert float(re.search(r"KL ([\d.]+) ±", said)[1]) > 0.01

    main([*steer, "1", "--mode", "scale"])
    said = capsys.readouterr().out
    assert re.search(r"without: (.*)\n", said)[1] == re.search(r"steered: (.*)\n", said)[1]


def test_a_page_of_all_neurons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "all.html"
    main(["vectors", "project", "embedded", "--layers", "0", "--top-k", "3", "--actions", "4000", "--html", str(page)])
    assert re.search(r"layer 0: \d+\.\d% of top tokens are actions \(chance 6\.4%\)", capsys.readouterr().out)
    assert page.read_text().count("<tr>") == 385


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--words", "antidisestablishment"], "'antidisestablishment' is not one token of this vocabulary"),
        (["--words", ","], "give a list of one or more words"),
        (["--words", "she", "--layers", "first"], "--layers is 'first'; give all, early, late, or numbers"),
        (["--words", "she", "--layers", "4"], "choose all, early, late, or numbers from 0 to 3"),
    ):
        with pytest.raises(SystemExit):
            main(["vectors", "find", "embedded", *options])
        assert message in capsys.readouterr().err
