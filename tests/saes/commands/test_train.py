"""``interp train`` as typed: from a store or live, options from a file, several SAEs at once."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from interp.cli import main
from interp.embedded import TEXT_FOLDER
from saes import SAE

LIVE = ["train", "--model", "embedded", "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--bos", "never"]
SIZE = ["--site", "blocks.1.hook_resid_post", "--d-sae", "128", "--tokens", "6k", "--batch-size", "512"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_live_sweep_ends_with_the_saes_of_single_runs(tmp_path: Path) -> None:
    assert run(*LIVE, *SIZE, "--k", "4", "--sweep", "seed=0,1", "--out", str(tmp_path / "both")) == 0
    assert run(*LIVE, *SIZE, "--k", "4", "--seed", "1", "--out", str(tmp_path / "one")) == 0
    together, alone = SAE.load(tmp_path / "both" / "seed=1"), SAE.load(tmp_path / "one")
    assert torch.equal(together.W_enc, alone.W_enc)
    source = together.provenance["source"]
    assert (source["model"], source["bos"], source["context"]) == ("embedded", "never", 256)


def test_the_file_fills_what_the_line_leaves_out(tmp_path: Path) -> None:
    options = tmp_path / "run.toml"
    options.write_text('k = 2\nd-sae = 64\nloss-weights = {aux = 0.5}\nsite = "blocks.1.hook_resid_post"\n')
    line = [*LIVE, "--config", str(options), "--d-sae", "96", "--tokens", "1k", "--out", str(tmp_path / "out")]
    assert run(*line) == 0
    asked = json.loads((tmp_path / "out" / "train.json").read_text())["train"]
    assert (asked["k"], asked["d_sae"], asked["loss_weights"]) == (2, 96, {"aux": 0.5})


def test_optimisers_are_chosen_and_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*LIVE, *SIZE[:4], "--batch-size", "512", "--tokens", "1k", "--k", "4", "--adam-betas", "0.5", "0.9"]
    assert run(*line, "--sweep", "optimizer=signum,soap", "--out", str(tmp_path / "all")) == 0
    assert "with gradients and SOAP's moments" in " ".join(capsys.readouterr().out.split())
    for name, rule in (("signum", "0.03 / sqrt(d_in)"), ("soap", "0.08 / sqrt(d_in)")):
        asked = json.loads((tmp_path / "all" / f"optimizer={name}" / "train.json").read_text())["train"]
        assert (asked["optimizer"], asked["adam_betas"]) == (name, [0.5, 0.9])
        assert asked["lr"].startswith(rule)
    assert run(*line, "--optimizer", "sgd", "--out", str(tmp_path / "none")) != 0
    assert '"sgd"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", [[], ["--store", "x", "--model", "embedded", "--data", "x"], ["--model", "embedded"], ["--data", "x"]]
)
def test_where_activations_come_from_is_said_once(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *given, *SIZE, "--out", str(tmp_path / "out")) == 2
    assert "activations come from --store, or from --model together with --data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b'site = "x\n', "Illegal character"), (b"\xff", "can't decode"), (b"a = " + b"[" * 100_000, "nested too deeply")],
)
def test_a_damaged_file_of_options_is_named(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    assert run(*LIVE, *SIZE, "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out")) != 0
    said = "".join(capsys.readouterr())
    assert "run.toml is not a TOML file of options" in " ".join(said.split())
    assert reason in said


def test_many_passes_are_told_unless_they_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "short.txt"
    text.write_text("When Emma and Jack went to the market, Emma gave a book to Jack. " * 60)
    line = ["train", "--model", "embedded", "--data", str(text), "--bos", "never", *SIZE[:4], "--batch-size", "512"]
    assert run(*line, "--k", "4", "--tokens", "40k", "--out", str(tmp_path / "silent")) == 0
    shown = capsys.readouterr()
    assert f"SAE, 128 latents: {2 * 128 * 96 + 128 + 96:,} parameters" in shown.out
    assert "passes over" in shown.out
    assert "warning: --tokens 40000 are" in shown.err
    assert "learned by heart" in shown.err
    assert run(*line, "--k", "4", "--epochs", "12", "--out", str(tmp_path / "asked")) == 0
    shown = capsys.readouterr()
    assert "(12 passes over" in shown.out  # of steps, of which a pass has a shorter last one
    kept = json.loads((tmp_path / "asked" / "train.json").read_text())["train"]
    a_pass = math.ceil(int(re.search(r"passes over ([\d,]+)", shown.out)[1].replace(",", "")) / 512)
    assert kept["tokens"] == 12 * a_pass * 512
    assert "learned by heart" not in shown.err
    assert run(*line, "--k", "4", "--epochs", "0", "--out", str(tmp_path / "none")) == 2
