"""The command: every evaluation with its plan, its table, its JSON and its page; what means nothing is refused."""

import json
from pathlib import Path

import pytest
import torch

from interp.embedded import TEXT_FOLDER
from interp.metrics import Estimate
from interp.pages.html_page import Page
from saes import SAE, TopK
from saes.suites.running import Figure, Suites, parse_suites
from saes.suites.shown import add_to
from tests.saes.evaluation.evaluated import SITE, run

TEXT = str(TEXT_FOLDER / "heldout.jsonl")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    sae = SAE(96, 192, TopK(16), site=SITE, provenance={"source": {"model": "embedded"}})
    sae.initialise(seed=0, mean=torch.zeros(96)).save(tmp_path / "sae")
    return tmp_path / "sae"


def labelled(folder: Path) -> Path:
    """Sentences about names or about places, and before or after."""
    kinds = {"name": "Mary John Tom Anna Alice Harry", "noun": "house tree door room window street"}
    lines = [
        {"text": f"{when} {word}", "label": kind, "group": word, "second": when}
        for kind, words in kinds.items()
        for word in words.split()
        for when in ("Then", "Before", "Now") * 2
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "mine.jsonl"


def test_one_evaluation_of_own_texts(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, mine = tmp_path / "page.html", str(labelled(tmp_path))
    line = ["eval", str(saved), "--data", TEXT, "--suite", "probing,scr,tpp", "--labelled", mine, "--position", "last"]
    assert run(*line, "--html", str(page), "--save", str(tmp_path / "found.json")) == 0
    shown = capsys.readouterr()
    assert "majority" in shown.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert "fvu" not in found
    figures = {one["figure"]: one for one in found["suites"]["figures"]}
    assert figures["majority"]["value"]["value"] == 0.5
    assert figures["whole activation"]["of"] == "mine.jsonl"
    assert 0 <= figures["latents, k = 5"]["value"]["value"] <= 1
    assert figures["latents, k = 5"]["value"]["n"] == 4
    refused = {one["suite"]: one["reason"] for one in found["suites"]["refused"]}
    assert "needs two properties of two labels each" in refused["scr"]
    assert "mine.jsonl has 2 labels" in refused["tpp"]
    assert "topk SAE on embedded: probing; scr; tpp" in shown.out
    written = page.read_text(encoding="utf-8")
    assert "Evaluation: probing" in written
    assert "<th>mine.jsonl</th>" in written  # a table for each set, which fits a narrow screen
    assert "<p>Not measured on mine.jsonl: spurious correlation removal needs two properties" in written


def test_the_page_says_what_a_set_is_and_what_n_counts(tmp_path: Path) -> None:
    figures = tuple(
        Figure(suite=suite, of=of, figure="x", value=Estimate(0.5, 0.1, 9))
        for suite, of in (("probing", "number"), ("ravel", "cities"))
    )
    page = add_to(Page("SAE"), Suites(figures=figures, refused=(), details={})).write(tmp_path / "page.html")
    written = page.read_text(encoding="utf-8")
    assert "number: Singular or plural: sentences that end in a noun." in written
    assert "Errors are over n held-out groups of texts (words, documents)." in written
    assert "Errors are over n entities that are asked about." in written


def test_core_stands_beside_others(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["eval", str(saved), "--data", TEXT, "--suite", "core,ravel,probing", "--tokens", "512"]
    assert run(*line, "--labelled", "number", "--save", str(tmp_path / "all.json")) == 0
    shown = capsys.readouterr().out
    assert "FVU" in shown
    assert "not measured" in shown
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["l0"]["value"] == 16
    assert "does not know the attribute 'country'" in found["suites"]["refused"][0]["reason"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--suite", "ravel"], "cities: the model does not know the attribute"),
        (
            ["--suite", "core,colour"],
            "'colour' is no evaluation; --suite takes core, probing, absorption, scr, tpp, ravel",
        ),
        (["--suite", "probing", "--labelled", "nowhere"], "'nowhere' is no file of labelled texts"),
    ],
)
def test_what_cannot_be_measured_ends_in_one_line(
    line: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", str(saved), "--data", TEXT, *line) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_all_is_every_evaluation() -> None:
    assert parse_suites("all") == ("core", "probing", "absorption", "scr", "tpp", "ravel")
    assert parse_suites("scr, scr,core") == ("scr", "core")
