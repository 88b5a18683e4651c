"""The transcoder set that ships: that it is the set it is said to be, and that it replaces the model's MLPs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interp import rows_for
from interp.embedded import TEXT_FOLDER
from saes import ReLU, embedded_transcoders
from saes.embedded import TRANSCODERS
from saes.evaluation.places_report import evaluate_places
from saes.places import Dictionary, Layout, load_any, write_circuit_tracer
from tests.saes.evaluation.evaluated import run

READS = tuple(f"blocks.{i}.mlp.hook_in" for i in range(4))
WRITES = tuple(f"blocks.{i}.hook_mlp_out" for i in range(4))


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


def test_a_set_without_its_last_layer_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """circuit-tracer's folders do not say how many files there are."""
    data = tmp_path / "text.txt"
    data.write_text("Emma Woodhouse, handsome, clever, and rich, had lived nearly twenty-one years. " * 20)
    relu = Dictionary(Layout("transcoders", READS, WRITES), ((96,) * 4,) * 2, d_sae=32, activation=ReLU())
    write_circuit_tracer(relu.initialise(seed=0, means=[torch.zeros(96)] * 4), tmp_path / "set")
    line = ["eval", str(tmp_path / "set"), "--model", "embedded", "--data", str(data), "--tokens", "256"]
    assert run(*line) == 0
    assert "note:" not in capsys.readouterr().err
    (tmp_path / "set" / "layer_3.safetensors").unlink()
    assert run(*line) == 0
    assert f"note: {tmp_path / 'set'} reads 3 of the 4 layers of embedded" in capsys.readouterr().err
