"""``interp vectors`` from the words to the steered text, on the embedded model."""

import json
import re
from pathlib import Path

import pytest

from interp.cli import main
from interp.embedded import TEXT_FOLDER


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["vectors", *arguments])
    return int(ended.value.code or 0)


def test_from_words_to_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster, page = tmp_path / "seem.json", tmp_path / "seem.html"
    find = ["find", "embedded", "--words", "seems,wants", "--method", "logit", "--top", "5", "--layers", "2,3"]
    assert run(*find, "--out", str(cluster), "--html", str(page)) == 0
    assert "' seems'" in capsys.readouterr().out
    kept = json.loads(cluster.read_text())
    assert kept["model"] == "embedded"
    assert {member["layer"] for member in kept["members"]} <= {2, 3}
    assert len(re.findall(r"<tr>", page.read_text())) == 6
    assert '<table class="interactive">' in page.read_text()

    steer = ["steer", "embedded", "--cluster", str(cluster), "--prompt", "She", "--tokens", "5"]
    assert run(*steer, "--value", "20", "--neutral", str(TEXT_FOLDER / "heldout.jsonl")) == 0
    said = capsys.readouterr().out
    without, steered = re.findall(r"(?:without|steered): (.*)", said)
    assert without != steered
    assert float(re.findall(r"KL ([\d.]+) ±", said)[0]) > 0.01

    assert run(*steer, "--value", "1", "--mode", "scale") == 0
    without, steered = re.findall(r"(?:without|steered): (.*)", capsys.readouterr().out)
    assert without == steered


def test_a_page_of_all_neurons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "all.html"
    options = ["--layers", "0", "--top-k", "3", "--actions", "4000", "--html", str(page)]
    assert run("project", "embedded", *options) == 0
    assert re.search(r"layer 0: \d+\.\d% of top tokens are actions \(chance 6\.4%\)", capsys.readouterr().out)
    assert page.read_text().count("<tr>") == 385


def test_of_a_language_model_the_strongest_neurons_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "all.html"
    assert run("project", "embedded", "--layers", "1,2", "--top-k", "4", "--html", str(page)) == 0
    plan, *strongest, last = capsys.readouterr().out.splitlines()
    assert plan == "the 4 tokens that every neuron of embedded raises most; layers: 1,2"
    found = [re.match(r"layer ([12]), neuron (\d+), largest logit ([\d.]+): '", line) for line in strongest]
    logits = [float(each[3]) for each in found if each]
    assert len(logits) == 3
    assert logits == sorted(logits, reverse=True)
    assert last == f"Report: {page}"


def test_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--words", "antidisestablishment"], "'antidisestablishment' is not one token of this vocabulary"),
        (["--words", ","], "give a list of one or more words"),
        (["--words", "she", "--layers", "first"], "--layers is 'first'; give all, early, late, or numbers"),
        (["--words", "she", "--layers", "4"], "choose all, early, late, or numbers from 0 to 3"),
    ):
        assert run("find", "embedded", *options) == 2
        assert message in capsys.readouterr().err
