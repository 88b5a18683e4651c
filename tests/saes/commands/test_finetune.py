"""``interp finetune`` as typed: on the tokens that the SAE was trained on."""

import json
from pathlib import Path

import pytest
import torch

from interp.cli import main
from interp.embedded import TEXT_FOLDER
from saes import SAE, TopK


def test_positions_and_tokens_that_were_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"model": "embedded", "context": 32, "bos": "row", "drop_first": 2, "drop_special": True}
    sae = SAE(96, 64, TopK(4), site="blocks.1.hook_resid_post", provenance={"source": source})
    sae.initialise(seed=0, mean=torch.zeros(96)).save(tmp_path / "sae")
    line = ["finetune", str(tmp_path / "sae"), "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--tokens", "64"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--batch-rows", "2", "--first-position", "1", "--out", str(tmp_path / "out")])
    assert not ended.value.code
    asked = json.loads((tmp_path / "out" / "train.json").read_text())["finetune"]
    assert asked["first_position"] == 2
    said = capsys.readouterr().err
    assert "as in the training of" in said
    assert "--first-position 2" in said
    assert asked["drop_tokens"]
    again = [f"--drop-tokens {token}" for token in asked["drop_tokens"]]
    assert " ".join(again) in said
    typed = [*line, "--batch-rows", "2", "--first-position", "2", *" ".join(again).split()]
    with pytest.raises(SystemExit) as ended:  # what is printed can be typed
        main([*typed, "--out", str(tmp_path / "out")])
    assert not ended.value.code
