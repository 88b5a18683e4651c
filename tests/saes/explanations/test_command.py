"""``interp sae explain`` and what ``interp sae features`` shows of it, as they are typed."""

import json
import re
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

import interp
from tests.saes.evaluation.evaluated import run
from tests.saes.explanations.planted import planted_answer, planted_sae
from tests.saes.explanations.served import Server
from tests.saes.features.test_page import content_of

TEXT = interp.embedded.TEXT_FOLDER / "heldout.jsonl"


def line(sae: Path, out: Path, *more: str) -> list[str]:
    common = ["--data", str(TEXT), "--tokens", "10k", "--model", "embedded", "--max-latents", "2", "--items", "8"]
    return ["sae", "explain", str(sae), *common, "--scores", "detection,fuzzing", "--out", str(out), *more]


@pytest.fixture
def sae(embedded: Any, tmp_path: Path) -> Path:
    planted_sae(embedded).save(tmp_path / "sae")
    return tmp_path / "sae"


@pytest.mark.slow
def test_from_a_plan_to_a_page(sae: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan alone, which sends nothing; then a server that knows the latents; then its record; then the page."""
    out = tmp_path / "out"
    together = Barrier(2, timeout=60)

    def answer(text: str) -> str:
        if len(server.seen) <= 2:  # the first is answered when there are two
            together.wait()
        return planted_answer(text)

    server.judge = answer
    judged = ["--judge", "endpoint", "--endpoint", server.url, "--judge-model", "m", "--per-request", "1"]
    assert run(*line(sae, out, *judged, "--max-requests", "0")) == 0
    assert server.seen == []
    shown = capsys.readouterr().out
    planned = re.search(
        r"2 latents(?: and . companions)? to explain, detection, fuzzing: about (\d+) requests and", shown
    )
    assert planned
    assert f"Stopped: 0 of 0 requests are spent. About {planned[1]} requests" in shown
    assert run(*line(sae, out, *judged)) == 0
    assert len(server.seen) == int(planned[1]) > 40
    shown = capsys.readouterr().out
    assert "detection: 1.00 ± 0.00 over 2 latents, 0.5" in shown
    assert re.search(rf"{planned[1]} requests and [\d,]+ tokens in all \(estimated for {planned[1]} answers\)", shown)
    assert shown.index("detection: 1.00") < shown.index(str(out / "explanations.json"))
    again = tmp_path / "again"
    recorded = ["--judge", "recorded", "--answers", str(out), "--per-request", "1"]
    assert run(*line(sae, again, *recorded), "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["detection"]["accuracy"]["value"] == 1.0
    assert (again / "explanations.json").read_bytes() == (out / "explanations.json").read_bytes()
    page = ["sae", "features", str(sae), "--data", str(TEXT), "--tokens", "10k", "--model", "embedded"]
    assert run(*page, "--html", str(tmp_path / "p.html"), "--explanations", str(out)) == 0
    content = content_of((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in content["latents"]] == [one["explanation"]["latent"] for one in found["latents"]]
    for entry in content["latents"]:
        assert entry["said"]["text"].startswith("the word [ ")
        assert entry["said"]["scores"][0].startswith("detection 1.00 ± ")
        assert entry["said"]["by"].startswith(f"m at {server.url}, templates ")
    capsys.readouterr()
    other = planted_sae(interp.load_model("embedded"))
    other.W_dec.data += 1
    other.save(tmp_path / "other")
    page[2] = str(tmp_path / "other")
    assert run(*page, "--html", str(tmp_path / "q.html"), "--explanations", str(out)) == 2
    assert "holds another run (weights: there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "endpoint", "--judge-model", "m"], "--judge endpoint needs --endpoint"),
        (["--judge", "local"], "--judge local needs --judge-model"),
        (["--judge", "recorded"], "--judge recorded needs --answers"),
        (
            ["--judge", "local", "--judge-model", "embedded", "--endpoint", "http://localhost:1/v1"],
            "--judge local takes no --endpoint; leave it out",
        ),
        (
            ["--judge", "endpoint", "--endpoint", "https://h/v1", "--judge-model", "m", "--key-variable", "NO_SUCH"],
            "the environment variable NO_SUCH is not set",
        ),
        (["--judge", "local", "--judge-model", "embedded", "--concurrent", "2"], "takes no --concurrent; leave it out"),
        (
            ["--judge", "endpoint", "--endpoint", "http://localhost:1/v1", "--judge-model", "m", "--concurrent", "0"],
            "--concurrent 0: at least 1 request must be on its way",
        ),
        (["--judge", "recorded", "--answers", "nowhere.jsonl"], "there are no recorded answers at nowhere.jsonl"),
        (["--judge", "local", "--judge-model", "embedded", "--latents", "1,x"], "--latents 1,x: numbers with commas"),
    ],
)
def test_what_is_refused_at_once(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line(tmp_path / "sae", tmp_path / "out", *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
