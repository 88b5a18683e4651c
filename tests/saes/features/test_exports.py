"""SAEDashboard's and Neuronpedia's files: their schemas, and that their numbers are those of the text."""

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from interp.sites.site import Site
from interp.sites.splicing import vectors_at
from interp.tokens.batches import measured
from saes import SAE, TopK
from saes.features.book import FeatureBook, look_up
from saes.features.examples import Text
from saes.features.exports import Names, dashboard_batch, neuronpedia, write_exports
from saes.features.levels import BINS
from saes.features.page import token_texts
from tests.saes.evaluation.evaluated import CONTEXT, DOCUMENTS, SITE, run, sae_at_site, text_rows

NUMBERS, WHOLE, WORDS = ({"type": "array", "items": {"type": kind}} for kind in ("number", "integer", "string"))
STRING, NUMBER, COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
MAYBE = {"type": ["number", "string", "null"]}
NAMES = Names(model="gpt2-small", sae_set="res-x", dataset="text.jsonl")


def closed(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object of exactly these fields."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_SHARED = {
    **{
        name: WHOLE
        for name in ("neuron_alignment_indices", "correlated_neurons_indices", "correlated_features_indices")
    },
    **{f"neuron_alignment_{name}": NUMBERS for name in ("values", "l1")},
    **{f"correlated_{of}_{name}": NUMBERS for of in ("neurons", "features") for name in ("l1", "pearson")},
    **{f"{sign}_str": WORDS for sign in ("neg", "pos")},
    **{f"{sign}_values": NUMBERS for sign in ("neg", "pos")},
    **{f"{of}_hist_data_bar_{name}": NUMBERS for of in ("freq", "logits") for name in ("values", "heights")},
    "frac_nonzero": {"type": "number", "minimum": 0, "maximum": 1},
    "decoder_weights_dist": NUMBERS,
}
DASHBOARD = closed(
    {
        "model_id": STRING,
        "layer": COUNT,
        "sae_set": STRING,
        "sae_id_suffix": {"type": ["string", "null"]},
        "features": {
            "type": "array",
            "items": closed(
                {
                    **_SHARED,
                    "feature_index": COUNT,
                    "n_prompts_total": COUNT,
                    "n_tokens_in_prompt": COUNT,
                    "dataset": STRING,
                    "activations": {
                        "type": "array",
                        "items": closed(
                            {
                                **{name: NUMBER for name in ("bin_min", "bin_max", "bin_contains")},
                                "qualifying_token_index": COUNT,
                                "tokens": WORDS,
                                "values": NUMBERS,
                            }
                        ),
                    },
                }
            ),
        },
    }
)
"""What sae-dashboard's NeuronpediaDashboardBatch holds, with what its exporter for Neuronpedia reads."""
_OF_ROW = {"modelId": STRING, "layer": STRING, "index": COUNT, "creatorId": STRING, "createdAt": STRING}
FEATURE = closed(
    {
        **_OF_ROW,
        **_SHARED,
        "maxActApprox": NUMBER,
        "hasVector": {"type": "boolean"},
        "vector": NUMBERS,
        "vectorLabel": MAYBE,
        "hookName": MAYBE,
        "topkCosSimIndices": WHOLE,
        "topkCosSimValues": NUMBERS,
    }
)
ACTIVATION = closed(
    {
        **_OF_ROW,
        "id": STRING,
        "tokens": WORDS,
        "values": NUMBERS,
        "maxValue": NUMBER,
        "minValue": NUMBER,
        "maxValueTokenIndex": COUNT,
        "qualifyingTokenIndex": COUNT,
        "lossValues": NUMBERS,
        "dfaValues": NUMBERS,
        **{name: MAYBE for name in ("logitContributions", "dfaTargetIndex", "dfaMaxValue", "dataIndex", "dataSource")},
        **{name: MAYBE for name in ("binMin", "binMax", "binContains")},
    }
)
"""Columns of neuronpedia-utils' tables of features and activations, as the exporter fills them."""


@pytest.fixture
def looked_up(embedded: Any, tmp_path: Path) -> tuple[SAE, Text, FeatureBook]:
    text = Text(model=embedded, rows=text_rows(embedded.tokenizer, tmp_path), site=Site.parse(SITE), first_position=2)
    sae = sae_at_site(TopK(8))
    return sae, text, look_up(sae, text, max_latents=20, examples=3)


def test_files_keep_the_schemas(looked_up: tuple[SAE, Text, FeatureBook], tmp_path: Path) -> None:
    sae, text, book = looked_up
    text_of = token_texts(text.model.tokenizer)
    batch = dashboard_batch(sae, text, book, NAMES, text_of=text_of)
    dashboard, source = write_exports(book, batch, NAMES, tmp_path / "out")
    jsonschema.validate(json.loads(dashboard.read_text(encoding="utf-8")), DASHBOARD)
    assert source == tmp_path / "out" / "neuronpedia" / "gpt2-small" / "2-res-x"
    for name, schema in (("features", FEATURE), ("activations", ACTIVATION)):
        lines = gzip.decompress((source / name / "batch-0.jsonl.gz").read_bytes()).decode().splitlines()
        assert len(lines) == (20 if name == "features" else sum(map(len, book.examples)))
        for line in lines:
            jsonschema.validate(json.loads(line), schema)
    for name, fields in (
        ("release", {"name": "res-x", "creatorName": "unknown"}),
        ("model", {"id": "gpt2-small", "instruct": False}),
        ("sourceset", {"modelId": "gpt2-small", "name": "res-x", "releaseName": "res-x"}),
        ("source", {"id": "2-res-x", "setName": "res-x", "num_prompts": 4, "num_tokens_in_prompt": CONTEXT}),
    ):
        (line,) = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line).items() >= fields.items()
    broken = json.loads(dashboard.read_text(encoding="utf-8"))
    broken["features"][0]["frac_nonzero"] = 1.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, DASHBOARD)


@torch.no_grad()
def test_numbers_are_those_of_the_text(looked_up: tuple[SAE, Text, FeatureBook]) -> None:
    sae, text, book = looked_up
    text_of = token_texts(text.model.tokenizer)
    batch = dashboard_batch(sae, text, book, NAMES, text_of=text_of)
    ids, documents = (text.rows.tensor_of(name, slice(None)) for name in ("ids", "documents"))
    kept = measured(documents, 2)
    x = vectors_at(text.model, ids, text.site, attention_mask=documents >= 0)
    dense = sae.encode(x).to_dense()[kept]
    W_dec, W_U = sae.W_dec, text.model.W_U
    for feature in batch["features"]:
        active = dense[:, feature["feature_index"]]
        assert feature["frac_nonzero"] == pytest.approx(float((active > 0).float().mean()))
        heights = torch.tensor(feature["freq_hist_data_bar_heights"])
        expected = torch.histc(active[active > 0], BINS, 0.0, float(active.max()))
        assert int(heights.sum()) == int((active > 0).sum())
        assert float((heights - expected).abs().sum()) <= 2, "a value on the edge of two bins"
        assert feature["freq_hist_data_bar_values"][0] == pytest.approx(float(active.max()) / BINS / 2, abs=6e-4)
        assert sum(feature["logits_hist_data_bar_heights"]) == W_U.shape[1]
        assert len(feature["pos_str"]) == len(feature["neg_values"]) == 10
        assert feature["pos_values"] == sorted(feature["pos_values"], reverse=True)
        assert feature["activations"][0]["bin_max"] == pytest.approx(float(active.max()), abs=6e-4)
        for passage in feature["activations"]:
            assert len(passage["tokens"]) == len(passage["values"])
            assert max(passage["values"]) == passage["values"][passage["qualifying_token_index"]] == passage["bin_max"]
            assert "".join(passage["tokens"]) in " ".join(DOCUMENTS)
    lines = neuronpedia(book, batch, NAMES)
    assert [line["index"] for line in lines["features/batch-0.jsonl"]] == list(book.latents)
    first = lines["features/batch-0.jsonl"][0]
    cosines = torch.nn.functional.cosine_similarity(W_dec[first["index"]], W_dec[first["topkCosSimIndices"]], dim=-1)
    assert first["topkCosSimValues"] == pytest.approx(cosines.tolist(), abs=6e-4)
    assert first["maxActApprox"] == batch["features"][0]["activations"][0]["bin_max"]


def test_a_latent_that_is_never_active(looked_up: tuple[SAE, Text, FeatureBook]) -> None:
    sae, text, _ = looked_up
    with torch.no_grad():
        sae.b_enc[5] = -100
    sae.site = "blocks.2.attn.hook_z"  # whose latents write to no logits
    book = look_up(sae, text, latents=[5])
    (feature,) = dashboard_batch(sae, text, book, NAMES, text_of=str)["features"]
    assert (feature["frac_nonzero"], feature["activations"], feature["freq_hist_data_bar_heights"]) == (0, [], [])
    assert (feature["pos_str"], feature["logits_hist_data_bar_values"]) == ([], [])
    batch = {"model_id": "m", "layer": 2, "sae_set": "s", "sae_id_suffix": None, "features": [feature]}
    jsonschema.validate(batch, DASHBOARD)
    assert neuronpedia(book, batch, NAMES)["features/batch-0.jsonl"][0]["maxActApprox"] == 0


def test_the_command_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = sae_at_site(TopK(8))
    sae.provenance = {"source": {"model": "embedded"}}
    sae.save(tmp_path / "sae")
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in DOCUMENTS))
    line = ["sae", "features", str(tmp_path / "sae"), "--data", str(tmp_path / "text.jsonl"), "--latents", "3,1"]
    assert run(*line, "--export", str(tmp_path / "json")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 latents for SAEDashboard in" in said
    batch = json.loads((tmp_path / "json" / "saedashboard" / "batch-0.json").read_text(encoding="utf-8"))
    assert (batch["model_id"], batch["sae_set"], batch["layer"]) == ("embedded", "sae-deepfield", 2)
    assert [feature["feature_index"] for feature in batch["features"]] == [3, 1]
    assert run(*line, "--export", str(tmp_path / "json")) != 0
    assert "is not empty" in capsys.readouterr().err
    assert run(*line) != 0
    assert "give --html" in " ".join(capsys.readouterr().err.split())
