"""CLTs and crosscoders of Gemma Scope 2 and Llamascopium: latents, outputs and ``interp eval`` are their tools'."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saes import SAE
from saes.conditions import conditions_of
from saes.places import Dictionary, load_any
from tests.saes.convert.by_hand import save_json, saved_model, token_ids
from tests.saes.evaluation.evaluated import run
from tests.saes.places.by_hand import (
    IN,
    OUT,
    SEVERAL,
    Several,
    gemma_scope,
    llamascopium_crosscoder,
    of_llamascopium_crosscoder,
    several_table,
)
from tests.tiny_models import LAYERS


def loaded(path: Path) -> Dictionary:
    found = load_any(path)
    assert isinstance(found, Dictionary)
    return found


@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_latents_and_outputs_are_the_tools(name: str, tmp_path: Path) -> None:
    layout = SEVERAL[name]
    weights = layout.weights()
    dictionary = loaded(layout.write(tmp_path, weights))
    kind, reads, writes = layout.layout
    assert (dictionary.layout.kind, list(dictionary.layout.reads), list(dictionary.layout.writes)) == (
        kind,
        reads,
        writes,
    )
    xs, _ = layout.between()
    latents, outputs = layout.compute(weights, xs)
    if layout.latents_times_norms:
        norms = [w["W_dec_to"][layer:].square().sum(-1).sum(0).sqrt() for layer, w in enumerate(weights)]
        latents = [f * norm for f, norm in zip(latents, norms, strict=True)]
    for ours, theirs in zip(dictionary.encode(xs), latents, strict=True):
        torch.testing.assert_close(ours.to_dense(), theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(dictionary(xs), outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


def measured(layout: Several, path: Path, folder: Path, *options: str) -> dict[str, Any]:
    """What ``interp eval`` writes, on the tiny model."""
    np.save(folder / "ids.npy", token_ids())
    out = folder / "report.json"
    arguments = [str(path), "--model", str(saved_model(layout.model, folder)), "--data", str(folder / "ids.npy")]
    arguments += ["--context", str(token_ids().shape[1]), "--bos", "never", "--save", str(out)]
    assert run("eval", *arguments, *options) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    "name",
    [
        "gemma_scope 2, clt with affine skip",
        "gemma_scope 2, crosscoder",
        "llamascopium, clt, jumprelu, by decoder norms",
    ],
)
def test_eval_prints_their_figures_at_their_places(name: str, tmp_path: Path) -> None:
    layout = SEVERAL[name]
    path = layout.write(tmp_path, layout.weights())
    report = measured(layout, path, tmp_path, "--first-position", "0")
    expected = layout.fvu()
    assert max(expected) < 0.8, "the dictionary explains its places"
    assert [place["place"] for place in report["places"]] == layout.layout[2]
    assert [place["fvu"]["value"] for place in report["places"]] == pytest.approx(expected, rel=1e-4)
    assert report["with_error_nodes"] < 1e-4, "the places are where the dictionary says"
    assert report["compounding"] is not None


def test_conditions_reach_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an instruction-tuned model the first four positions were left out of training; a BOS stands in each row."""
    layout = SEVERAL["gemma_scope 2, clt"]
    path = layout.write(tmp_path, layout.weights())
    save_json(path / "config.json", {"model_name": "gemma-v3-1b-it", "type": "clt", "architecture": "jump_relu"})
    said = conditions_of(loaded(path).provenance)
    assert (said.first_position, said.bos, said.context) == (4, "row", 1024)
    tuned = Several(**{**vars(layout), "model": "gemma-3-1b-it"})
    report = measured(tuned, path, tmp_path)
    assert report["text"]["first_position"] == 4
    assert "--first-position 4" in " ".join(capsys.readouterr().err.split())
    rows, context = token_ids().shape
    assert report["tokens"] == rows * (context - 4)


def test_what_the_folder_is_called_decides(tmp_path: Path) -> None:
    weights = SEVERAL["gemma_scope 2, clt"].weights()
    with pytest.raises(ValueError, match="whether this is a clt or a crosscoder"):
        load_any(gemma_scope(tmp_path, weights, below="downloaded"))
    for below, message in (
        ("crosscoder/weights", "stands in its folder's name alone"),
        ("crosscoder/layer_0_1_width_262k_l0_medium", r"has the layers \[0, 1\], and there are 3 files"),
    ):
        with pytest.raises(ValueError, match=message):
            load_any(gemma_scope(tmp_path, weights, below=below))
    by_config = gemma_scope(tmp_path, weights, below="mine")
    save_json(by_config / "config.json", {"type": "clt", "model_name": "gemma-v3-270m-pt"})
    dictionary = loaded(by_config)
    assert (dictionary.layout.reads, dictionary.layout.writes) == (tuple(IN), tuple(OUT))
    assert dictionary.provenance["imported"]["model"] == "google/gemma-3-270m"


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    layout = SEVERAL["gemma_scope 2, clt"]
    path = layout.write(tmp_path, layout.weights())
    last = path / f"params_layer_{LAYERS - 1}.safetensors"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(ValueError, match=r"w_dec of file 0 has shape .*, expected \[d_sae, 2 \(files there are\), d\]"):
        load_any(path)
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"params_layer_{LAYERS - 1}\.safetensors"):
        load_any(path)
    for change, message in (
        ({"extra": torch.ones(2)}, "extra"),
        ({"b_enc": torch.full_like(layout.weights()[0]["b_enc"], torch.nan)}, "b_enc is not finite"),
        ({"w_dec": torch.zeros(4, LAYERS, 5)}, "expected"),
    ):
        last.write_bytes(content)
        save_file(load_file(last) | change, last)
        with pytest.raises(ValueError, match=message):
            load_any(path)
    last.write_bytes(content)
    (path / "params_layer_1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"params_layer_1\.safetensors is missing: there are numbers up to 2"):
        load_any(path)


def test_latents_that_write_to_earlier_layers_are_refused(tmp_path: Path) -> None:
    layout = SEVERAL["gemma_scope 2, clt"]
    path = layout.write(tmp_path, layout.weights())
    file = path / "params_layer_1.safetensors"
    found = load_file(file)
    found["w_dec"][3, 0, 2] = 0.5
    save_file(found, file)
    with pytest.raises(ValueError, match=r"latents of file 1 write to earlier layers too \(weights up to 0\.5"):
        load_any(path)


@torch.no_grad()
def test_a_crosscoder_that_selects_by_place_is_refused_and_one_that_selects_alike_is_not(tmp_path: Path) -> None:
    layout = SEVERAL["llamascopium, crosscoder"]
    weights = layout.weights()
    for act_fn in ("topk", "jumprelu"):
        with pytest.raises(ValueError, match="one latent may be active at some of its places only"):
            load_any(llamascopium_crosscoder(tmp_path / act_fn, weights, act_fn=act_fn))
        dictionary = loaded(llamascopium_crosscoder(tmp_path / f"{act_fn}1", weights, act_fn=act_fn, same_norms=True))
        xs, _ = layout.between()
        _, outputs = of_llamascopium_crosscoder(weights, xs, act_fn=act_fn, same_norms=True)
        for ours, theirs in zip(dictionary(xs), outputs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "batchtopk"}, "depend on the rest of its batch"),
        ({"act_fn": "layertopk"}, "depend on those of other layers"),
        ({"hook_points_in": IN[:2]}, r"its encoders are 3"),
        ({"hook_points_in": "all"}, "must be a list of hooks"),
        ({"hook_points_out": ["nowhere"] * 3}, "nowhere|the mean norm"),
        ({"norm_activation": "token-wise"}, "scaled by its own norm"),
        ({"d_model": 0}, "d_model is 0"),
    ],
)
def test_what_llamascopium_has_and_we_have_not(change: dict[str, object], message: str, tmp_path: Path) -> None:
    layout = SEVERAL["llamascopium, clt, relu, by decoder norms"]
    path = layout.write(tmp_path, layout.weights())
    config = json.loads((path / "config.json").read_text())
    save_json(path / "config.json", config | change)
    with pytest.raises(ValueError, match=message) as told:
        load_any(path)
    assert str(path) in str(told.value)


def test_an_sae_is_asked_for(tmp_path: Path) -> None:
    for name, layout in SEVERAL.items():
        path = layout.write(tmp_path / name.replace(" ", "_"), layout.weights())
        with pytest.raises(ValueError, match=r"load it (whole )?with saes\.places\.load_any"):
            SAE.load(path)
        with pytest.raises(ValueError, match="it takes no single site"):
            load_any(path, site=IN[0])


def test_the_document_shows_them() -> None:
    document = Path(__file__).parents[3] / "docs" / "formats.md"
    assert several_table() in document.read_text(encoding="utf-8"), "run `python -m tests.saes.places.by_hand`"
