"""Places looked up in stores, two stores of the same rows, the plan, and ``interp train --kind`` as typed."""

import json
from pathlib import Path

import pytest
import torch

from interp import ActivationStore
from interp.cli import main
from interp.store.caching import cache_activations
from saes import TrainConfig
from saes.places import Dictionary, load_dictionary
from saes.places.stores import SameRows, places_in
from saes.training import train_dictionary
from saes.training.plan import plan, with_places
from tests.interp.store.stores import random_rows, tiny_bridge

SITES = ["blocks.*.mlp.hook_in", "blocks.*.hook_mlp_out"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of one text by one model and another, and one of another text."""
    place = tmp_path_factory.mktemp("stores")
    rows = random_rows(place / "rows", rows=30)
    for name, seed in (("first", 0), ("second", 1)):
        torch.manual_seed(seed)
        cache_activations(tiny_bridge(place / f"model-{name}"), rows, SITES, place / name)
    others = random_rows(place / "other-rows", rows=30, seed=1)
    cache_activations(tiny_bridge(place / "model-first"), others, SITES, place / "other")
    return place


def test_patterns_are_looked_up_in_the_store(folder: Path) -> None:
    store = ActivationStore(folder / "first")
    layers = len(store.sites) // 2
    reads = tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(layers))
    assert places_in(store, ["blocks.*.mlp.hook_in"]) == reads
    assert places_in(store, ["blocks.0-1.mlp.hook_in"]) == reads[:2]
    assert places_in(store, ["blocks.1.mlp.hook_in", "blocks.0.mlp.hook_in"]) == (reads[1], reads[0])
    with pytest.raises(ValueError, match=r"blocks.\*.hook_resid_post is not in the store, which has blocks.0"):
        places_in(store, ["blocks.*.hook_resid_post"])
    with pytest.raises(ValueError, match=r"blocks.7.mlp.hook_in, .* of blocks.7-8.mlp.hook_in is not in the store"):
        places_in(store, ["blocks.7-8.mlp.hook_in"])
    both = SameRows([store, ActivationStore(folder / "second")])
    assert places_in(both, ["blocks.1.hook_mlp_out"]) == ("0:blocks.1.hook_mlp_out", "1:blocks.1.hook_mlp_out")
    assert places_in(both, ["1:blocks.*.mlp.hook_in"]) == tuple(f"1:{name}" for name in reads)


def test_rows_of_two_stores_belong_together(folder: Path) -> None:
    stores = [ActivationStore(folder / name) for name in ("first", "second")]
    names = ["1:blocks.0.hook_mlp_out", "0:blocks.1.hook_mlp_out"]
    batches = list(SameRows(stores).batches_of(names, 64, seed=3, start=1))
    for number, site in ((1, "blocks.0.hook_mlp_out"), (0, "blocks.1.hook_mlp_out")):
        alone = list(stores[number].batches(site, 64, seed=3, start=1))
        for batch, expected in zip(batches, alone, strict=True):
            assert torch.equal(batch[f"{number}:{site}"], expected)


def test_stores_of_other_rows_are_refused(folder: Path) -> None:
    stores = {name: ActivationStore(folder / name) for name in ("first", "other")}
    with pytest.raises(ValueError, match=r"are of other rows: (tokens|documents) differ at token \d+\. Cache both"):
        SameRows(list(stores.values()))
    with pytest.raises(ValueError, match="1 store is given; several stores are two or more"):
        SameRows([stores["first"]])
    with pytest.raises(ValueError, match=r"0:blocks.9.hook_mlp_out is not in these stores, which have 0:blocks"):
        SameRows([stores["first"], stores["first"]]).width("0:blocks.9.hook_mlp_out")


@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
@pytest.mark.parametrize("skip", [False, True])
def test_the_plan_counts_what_is_built(kind: str, skip: bool, folder: Path, tmp_path: Path) -> None:
    if kind == "crosscoder" and skip:
        return
    store = ActivationStore(folder / "first")
    config = TrainConfig(
        out=tmp_path, kind=kind, reads=(SITES[0],), writes=() if kind == "crosscoder" else (SITES[1],), skip=skip,
        activation="jumprelu", d_sae=24, tokens=1000, batch_size=100,
    )  # fmt: skip
    config = with_places(config, store)
    found = plan(config, store)
    built = train_dictionary(config, store)
    assert found.parameters == sum(parameter.numel() for parameter in built.parameters())
    assert found.training_bytes == 16 * found.parameters
    assert (found.steps, found.tokens) == (10, 1000)
    assert 0 < found.days() < 1
    assert f"{found.parameters:,} parameters" in found.lines()[0]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_command_trains_every_kind_and_says_its_plan(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--k", "2", "--d-sae", "24", "--tokens", "2k", "--batch-size", "256", "--checkpoint-every", "3"]
    line = ["train", "--store", str(folder / "first"), "--reads", SITES[0], "--writes", SITES[1], *size]
    out = tmp_path / "both"
    assert run(*line, "--kind", "clt", "--sweep", "kind=transcoders,clt", "--out", str(out)) == 0
    said, logged = capsys.readouterr()
    clt = load_dictionary(out / "kind=clt")
    count = sum(parameter.numel() for parameter in clt.parameters())
    assert f"clt over {len(clt.parts)} places: {count:,} parameters" in said
    assert "at least" in said
    assert "none has more than" in logged
    assert clt.layout.reads == tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(len(clt.parts)))
    assert clt.provenance["source"]["data"] == ActivationStore(folder / "first").provenance["data"]
    assert load_dictionary(out / "kind=transcoders").layout.kind == "transcoders"
    assert run(*line, "--kind", "clt", "--sweep", "kind=transcoders,clt", "--out", str(out)) == 0


def test_two_models_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tmp_path / "run.toml"
    options.write_text(
        'kind = "crosscoder"\nreads = ["blocks.1.hook_mlp_out"]\nk = 2\nd-sae = 24\ntokens = 1000\n'
        "options = {decoder_norms = true}\n"
    )
    stores = ["--store", str(folder / "first"), "--store", str(folder / "second")]
    line = ["train", *stores, "--config", str(options), "--activation", "batchtopk", "--out", str(tmp_path / "out")]
    assert run(*line) == 0
    crosscoder = load_dictionary(tmp_path / "out")
    assert isinstance(crosscoder, Dictionary)
    assert crosscoder.layout.reads == ("0:blocks.1.hook_mlp_out", "1:blocks.1.hook_mlp_out")
    assert len(crosscoder.provenance["source"]["stores"]) == 2
    asked = json.loads((tmp_path / "out" / "train.json").read_text())["train"]
    assert asked["reads"] == list(crosscoder.layout.reads)
    assert (
        run("train", *stores[:3], str(folder / "other"), "--config", str(options), "--out", str(tmp_path / "no")) != 0
    )
    assert "are of other rows" in " ".join(capsys.readouterr().err.split())
