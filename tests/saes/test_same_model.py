"""What an SAE says of its model against the model that it is measured on."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from interp.model_identity import relation
from interp.models.loading import load_model
from interp.sites.site import Site
from interp.store.caching import cache_activations
from saes import SAE, TopK, TrainConfig, train
from saes.convert import write
from saes.dark_matter.matching import check_same_activations
from saes.dark_matter.run import _model as model_of_store
from saes.evaluation.report import evaluate
from saes.features.examples import Text, count_latents
from saes.same_model import check_same_model, check_same_names, name_of, said_model
from saes.training.finetune_config import FinetuneConfig
from saes.training.finetuning import finetune
from tests.saes.evaluation.evaluated import CONTEXT, SITE, WIDTH, sae_at_site, text_rows
from tests.saes.sources import MemorySource, planted
from tests.tiny_models import tiny_model


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("gpt2", "openai-community/gpt2", "same"),
        ("gpt2-small", "gpt2", "same"),
        ("gpt2-small", "gpt2-medium", "different"),
        ("gpt2-medium", "smollm2-135m", "different"),
        ("pythia-70m", "EleutherAI/pythia-70m", "same"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m-deduped", "different"),
        ("pythia-70m-seed1", "pythia-70m-seed2", "different"),
        ("google/gemma-2-2b", "google/gemma-2-2b-it", "related"),
        ("gemma-2-2b", "google/gemma-2-2b", "same"),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m", "related"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", "same"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "/models/SmolLM2-135M-Instruct.Q4_1.gguf", "same"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base", "related"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "different"),
        ("meta-llama/Llama-3.2-1B", "somebody/Llama-3.2-1B", "related"),
        ("gpt2", "/data/checkpoints/run7", "unknown"),
        ("/a/run7", "/b/run7", "same"),
        ("embedded", "embedded", "same"),
    ],
)
def test_relation_of_names(one: str, other: str, how: str) -> None:
    assert relation(one, other) == how == relation(other, one)


def saelens(folder: Path, model_name: str, *, before_6: bool = False) -> SAE:
    """As SAELens keeps an SAE of that model, which is as wide as the embedded one."""
    write(sae_at_site(TopK(8)), "saelens", folder)
    config = json.loads((folder / "cfg.json").read_text())
    metadata = config.pop("metadata") | {"model_name": model_name, "deepfield": {}}
    config |= {"hook_name": SITE, "model_name": model_name} if before_6 else {"metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(config))
    return SAE.load(folder)


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_model("embedded")


@pytest.mark.parametrize("before_6", [False, True])
def test_an_sae_of_another_model_is_refused(embedded: Any, tmp_path: Path, before_6: bool) -> None:
    sae = saelens(tmp_path / "sae", "gpt2-medium", before_6=before_6)
    assert said_model(sae) == "gpt2-medium"
    rows = text_rows(embedded.tokenizer, tmp_path)
    message = "is of the model gpt2-medium, these activations are of embedded: take that model"
    with pytest.raises(ValueError, match=message):
        evaluate(sae, embedded, rows)
    with pytest.raises(ValueError, match=message):
        count_latents(sae, Text(model=embedded, rows=rows, site=Site.parse(SITE)))
    with pytest.raises(ValueError, match=message):
        finetune(sae, embedded, rows, FinetuneConfig(out=tmp_path / "run", tokens=CONTEXT, decoder="free"))
    assert not (tmp_path / "run").exists()


def test_a_store_and_a_start_of_another_model_are_refused(embedded: Any, tmp_path: Path) -> None:
    """The dark-matter figures and training read stores that say their model."""
    sae, rows = saelens(tmp_path / "sae", "gpt2-medium"), text_rows(embedded.tokenizer, tmp_path)
    store = cache_activations(embedded, rows, [SITE], tmp_path / "store")
    with pytest.raises(ValueError, match="mine is of the model gpt2-medium, these activations are of embedded"):
        check_same_activations(sae, store, name="mine")
    source = MemorySource(planted(100, d=WIDTH)[0], {"model": "embedded"})
    config = TrainConfig(site=SITE, out=tmp_path / "run", k=8, d_sae=sae.d_sae, tokens=100, init_from=tmp_path / "sae")
    with pytest.raises(ValueError, match="the SAE to start from is of the model gpt2-medium, these"):
        train(config, source)


def test_the_model_that_a_store_of_half_precision_names_is_compared_too(tmp_path: Path) -> None:
    """Its weights were other bytes than those loaded now, so the fingerprint cannot tell."""
    model = load_model("embedded", dtype="bfloat16")
    rows = text_rows(model.tokenizer, tmp_path)
    store = cache_activations(model, rows, [SITE], tmp_path / "acts")
    assert name_of(model_of_store(store, rows, None, None)) == "embedded"
    tiny_model("gpt2").save_pretrained(tmp_path / "other" / store.provenance["revision"])
    with pytest.warns(UserWarning, match=r"acts is of the model embedded, these activations are of .*other: whether"):
        model_of_store(store, rows, str(tmp_path / "other"), None)
    with pytest.raises(ValueError, match="acts is of the model embedded, these activations are of gpt2: take that"):
        check_same_names("embedded", "gpt2", name="acts")


def test_a_related_model_is_measured_with_a_warning(embedded: Any, tmp_path: Path) -> None:
    sae, rows = saelens(tmp_path / "sae", "embedded-it"), text_rows(embedded.tokenizer, tmp_path)
    with pytest.warns(UserWarning, match="of the model embedded-it, these activations are of embedded: figures of"):
        report = evaluate(sae, embedded, rows)
    sae.provenance = {}
    assert report == evaluate(sae, embedded, rows), "and an SAE that says nothing is measured without one"


def test_names_that_do_not_tell_are_both_named() -> None:
    sae = SAE(4, 8, TopK(2), provenance={"source": {"model": "gpt2"}})
    with pytest.warns(UserWarning, match="gpt2, these activations are of /data/run7: whether they are the same cannot"):
        check_same_model(sae, "/data/run7")
    check_same_model(sae, None)


@pytest.mark.parametrize("provenance", [{}, {"source": 3}, {"source": {"model": 3}}, {"imported": {"config": [1]}}])
def test_provenance_that_says_nothing(provenance: dict[str, Any]) -> None:
    assert said_model(SAE(4, 8, TopK(2), provenance=provenance)) is None


def test_a_model_whose_source_is_unknown_has_no_name() -> None:
    assert name_of(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=8, n_positions=8))) is None
