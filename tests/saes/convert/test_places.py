"""Where dictionaries of other tools belong: ``interp eval`` prints their figures at the tensors they were made for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.sites.site import Site
from saes import SAE, ReLU, TopK
from saes.convert import write
from saes.convert.site_names import of_folder, of_hook, of_label, of_module
from saes.own_sites import own_sites
from tests.saes.convert.by_hand import LAYER, Layout, saved_model, token_ids
from tests.saes.convert.layouts import (
    MLP_IN,
    MLP_OUT,
    NEOX,
    PLACED,
    RESID_POST,
    gemma_scope_2,
    places_table,
    saelens_6,
    sparsify,
)
from tests.saes.evaluation.evaluated import run
from tests.tiny_models import WIDTH


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``interp eval`` on the tiny model that a layout is of; its report."""
    folder = tmp_path_factory.mktemp("measured")
    np.save(folder / "ids.npy", token_ids())
    models: dict[str, Path] = {}

    def measure(layout: Layout, sae: Path, *options: str) -> dict[str, Any]:
        if layout.model not in models:
            models[layout.model] = saved_model(layout.model, folder)
        out = folder / "report.json"
        out.unlink(missing_ok=True)
        context = str(token_ids().shape[1])
        arguments = [str(sae), "--model", str(models[layout.model]), "--data", str(folder / "ids.npy")]
        arguments += ["--context", context, "--bos", "never", "--first-position", "0", "--save", str(out)]
        assert run("eval", *arguments, *options) == 0
        return json.loads(out.read_text())

    return measure


@pytest.mark.parametrize("name", PLACED)
def test_every_layout_is_measured_where_it_belongs(name: str, measured: Any, tmp_path: Path) -> None:
    layout = PLACED[name]
    path = layout.write(tmp_path, layout.weights())
    sae = SAE.load(path)
    if not layout.options:
        assert (sae.site, sae.target_site) == (layout.site, layout.target_site)
    x = layout.between()[0]
    latents, output = layout.compute(layout.weights(), x)
    if layout.latents_times_norms:
        latents = latents * layout.weights()["W_dec"].norm(dim=1)
    with torch.no_grad():
        torch.testing.assert_close(sae.encode(x).to_dense(), latents, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sae(x), output, rtol=1e-5, atol=1e-5)
    expected = layout.fvu()
    assert expected < 0.8, "the dictionary explains its site"
    report = measured(layout, path, *layout.options)
    assert report["fvu"]["value"] == pytest.approx(expected, rel=1e-4)
    assert report["site"] == layout.site


@pytest.mark.parametrize("name", ["sparsify, transcoder", "saelens, a head", "saelens, hook_z"])
def test_the_model_goes_on_from_the_reconstruction(name: str, measured: Any, tmp_path: Path) -> None:
    """A dictionary that gives back what its target is leaves the model as it is; zero in its place does not."""
    layout = PLACED[name]
    path = layout.write(tmp_path, layout.weights())
    report = measured(layout, path)
    assert report["ce_zero"]["value"] != pytest.approx(report["ce_clean"]["value"], abs=1e-4)
    sae = SAE.load(path)
    if sae.target_site is None:
        x = layout.between()[0].shape[-1]
        exact = SAE(x, 2 * x, ReLU(), site=sae.site)
        with torch.no_grad():
            exact.W_enc.copy_(torch.cat([torch.eye(x), -torch.eye(x)], 1))
            exact.W_dec.copy_(torch.cat([torch.eye(x), -torch.eye(x)]))
        exact.save(tmp_path / "exact")
        report = measured(layout, tmp_path / "exact")
        assert report["ce_spliced"]["value"] == pytest.approx(report["ce_clean"]["value"], abs=1e-5)


def test_options_take_the_place_of_what_the_files_say(tmp_path: Path) -> None:
    path = PLACED["saelens, transcoder"].write(tmp_path, PLACED["saelens, transcoder"].weights())
    sae = SAE.load(path, site="blocks.2.mlp.hook_in", target_site="blocks.2.hook_mlp_out")
    assert (sae.site, sae.target_site) == ("blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out")
    assert SAE.load(path, target_site=MLP_IN).target_site is None, "one that reconstructs what it reads"
    assert SAE.load(path, site=f"gpt_neox.layers.{LAYER}").site == RESID_POST
    for option in ("site", "target_site"):
        with pytest.raises(ValueError, match="'hook_nowhere' is not the name of a site"):
            SAE.load(path, **{option: "hook_nowhere"})
    to = tmp_path / "converted"
    options = ["--site", "blocks.0.mlp.hook_in", "--target-site", "blocks.0.hook_mlp_out"]
    assert run("sae", "convert", str(path), "--to", "deepfield", "--out", str(to), *options) == 0
    converted = SAE.load(to)
    assert (converted.site, converted.target_site) == ("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")


def test_what_does_not_say_its_place_is_refused_with_what_it_says(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = PLACED["sparsify, transcoder"]
    renamed = sparsify(tmp_path, layout.weights(), hookpoint="v1.2", transcode=True)
    assert SAE.load(renamed).site is None
    for options, missing in (((), "--site"), (("--site", MLP_IN), "--target-site")):
        with pytest.raises(AssertionError):
            measured(layout, renamed, *options)
        said = " ".join(capsys.readouterr().err.split())
        assert f"({missing})" in said
        assert "its folder's name, 'v1.2', is the path of no module whose input and output are sites" in said
    folder = gemma_scope_2(tmp_path, PLACED["gemma_scope 2, transcoder"].weights(), below="elsewhere")
    with pytest.raises(ValueError, match=r"does not say which site it belongs to .*config.json says None"):
        own_sites(SAE.load(folder))
    path = saelens_6("transcoder", hook_name=RESID_POST)(tmp_path / "saelens", layout.weights())
    with pytest.raises(ValueError, match="is a transcoder and does not say which site it reconstructs"):
        own_sites(SAE.load(path))


def test_a_module_before_a_norm_is_told(measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output of Gemma's MLP is not what is added to the residual stream."""
    layout = PLACED["gemma_scope, MLP"]
    weights = layout.weights()
    folder = sparsify(tmp_path, weights, hookpoint=f"layers.{LAYER}.mlp")
    with pytest.raises(AssertionError):
        measured(layout, folder)
    said = " ".join(capsys.readouterr().err.split())
    assert f"in this model a norm separates from {MLP_OUT}: pass --site model.layers.{LAYER}.mlp" in said
    named = sparsify(tmp_path / "b", weights, hookpoint=f"layers.{LAYER}.mlp", above={"model": "google/gemma-2-2b"})
    assert SAE.load(named).site == f"model.layers.{LAYER}.mlp"


def test_own_transcoders_keep_their_places(tmp_path: Path) -> None:
    """Through every format that holds them, and a head's SAE its head."""
    options = {"subtract_b_dec": False, "site": MLP_IN, "target_site": MLP_OUT}
    for form, variant in (("sparsify", TopK(3)), ("saelens", ReLU())):
        write(SAE(8, 24, variant, **options), form, tmp_path / form)
        again = SAE.load(tmp_path / form)
        assert (again.site, again.target_site) == (MLP_IN, MLP_OUT)
    for number, site in enumerate((f"blocks.{LAYER}.attn.hook_z", f"blocks.{LAYER}.attn.hook_z[2]")):
        for form in ("saelens", "sparsify", "dictionary_learning"):
            write(SAE(8, 24, TopK(3), site=site), form, tmp_path / f"{form}{number}")
            assert SAE.load(tmp_path / f"{form}{number}").site == site
    config = json.loads((tmp_path / "saelens0" / "cfg.json").read_text())
    assert (config["reshape_activations"], config["metadata"]["hook_name"]) == ("hook_z", f"blocks.{LAYER}.attn.hook_z")
    config = json.loads((tmp_path / "saelens1" / "cfg.json").read_text())
    assert (config["reshape_activations"], config["metadata"]["hook_head_index"]) == ("none", 2)


def test_names_that_mean_no_place_are_none() -> None:
    for name in (None, 7, ["x"], "", "MLP_3", "resid", "a b", "../..", "\ud800"):
        assert (of_hook(name), of_module(name), of_label(name)) == (None, None, None)
    assert of_module("layers.x.mlp") is None
    assert of_module("layers.3.mlp.act_fn") is None
    assert of_module("embed_tokens") == "blocks.0.hook_resid_pre"
    assert of_module("model.layers.2.post_attention_layernorm.output", model="google/gemma-2-2b") == (
        "blocks.2.hook_attn_out"
    )
    assert of_module("model.layers.2.post_attention_layernorm.output", model="Llama-3.1-8B") == "blocks.2.mlp.hook_in"
    assert of_hook("blocks.3.attn.hook_q", 5) == "blocks.3.attn.hook_q[5]"
    assert of_hook("blocks.3.ln2.hook_normalized") == "blocks.3.ln2.hook_normalized"
    assert of_folder(Path("a/attn_out_layer_4/b")) == "blocks.4.hook_attn_out"
    assert Site.parse("blocks.4.hook_attn_out").layer == 4


def test_features_finetuning_and_dark_matter_ask_for_a_place(tmp_path: Path, embedded: Any) -> None:
    from saes.features.logit_effects import logit_effects

    layout = PLACED["sparsify, transcoder"]
    sae = SAE.load(sparsify(tmp_path, layout.weights(), hookpoint="v1.2", transcode=True), site=RESID_POST)
    assert logit_effects(sae, embedded, [0]) is None, "where a transcoder of an unknown target writes is not known"
    assert layout.model == NEOX
    assert sae.d_in == WIDTH


def test_the_document_shows_the_places() -> None:
    document = Path(__file__).parents[3] / "docs" / "formats.md"
    assert places_table() in document.read_text(encoding="utf-8"), "run `python -m tests.saes.convert.layouts`"
