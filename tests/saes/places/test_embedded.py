"""The transcoder set that ships: that it is the set it is said to be, and that it replaces the model's MLPs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interp import rows_for
from interp.embedded import TEXT_FOLDER
from saes import embedded_transcoders
from saes.embedded import TRANSCODERS
from saes.evaluation.places_report import evaluate_places
from saes.places import Dictionary, load_any
from tests.saes.evaluation.evaluated import run


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(file.stat().st_size for file in TRANSCODERS.iterdir()) < 4_000_000
    assert all(file.suffix in (".safetensors", ".json") for file in TRANSCODERS.iterdir())
    shipped = embedded_transcoders()
    assert {parameter.dtype for parameter in shipped.parameters()} == {torch.float32}
    assert (shipped.layout.kind, len(shipped.parts)) == ("transcoders", 4)
    assert shipped.provenance["source"]["model"] == "embedded"
    assert shipped.provenance["train"]["seed"] == 0


def test_it_has_a_name(tmp_path: Path) -> None:
    """As the model has; a folder of that name is ./embedded."""
    named = load_any("embedded")
    assert isinstance(named, Dictionary)
    for ours, theirs in zip(named.parameters(), embedded_transcoders().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="which its files name: it takes no single site"):
        load_any("embedded", site="blocks.0.mlp.hook_in")


def test_it_replaces_the_model(embedded: Any, tmp_path: Path) -> None:
    """Bounds a third above the figures in docs/replacement.md, which are of ten times this text."""
    rows = rows_for(embedded, TEXT_FOLDER / "heldout.jsonl", tmp_path, tokens=3_000, context=256)
    report = evaluate_places(embedded_transcoders(), embedded, rows, max_tokens=3_000)
    assert max(place.fvu.value for place in report.places) < 0.25
    assert 40 < report.l0.value < 80
    assert report.compounding is not None
    assert report.true_stream.kl.value < report.compounding.kl.value < 0.33
    assert report.with_error_nodes < 1e-5


def test_commands_take_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "text.txt"
    data.write_text("Emma Woodhouse, handsome, clever, and rich, had lived nearly twenty-one years. " * 20)
    assert run("eval", "embedded", "--data", str(data), "--tokens", "256") == 0
    assert "embedded, transcoders" in capsys.readouterr().out
