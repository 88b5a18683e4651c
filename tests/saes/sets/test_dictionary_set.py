"""Several SAEs as one: how they are found, named and taken, and that measuring them together changes no figure."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saes
from interp.tokens.token_rows import TokenRows
from saes import SAE, DictionarySet, TopK
from saes.convert import write
from saes.evaluation import evaluate_together
from saes.evaluation.set_page import build_page
from saes.sets import members_in
from tests.saes.convert.by_hand import saved_model, token_ids
from tests.saes.convert.layouts import PLACED, sparsify
from tests.saes.evaluation.evaluated import WIDTH, run, sae_at_site, text_rows

MODEL = {"source": {"model": "pythia-70m"}}


def at_layer(layer: int, *, kind: str = "hook_resid_post", k: int = 8, d_sae: int = 200, seed: int = 0) -> SAE:
    sae = sae_at_site(TopK(k), d_sae=d_sae)
    sae.site = f"blocks.{layer}.{kind}"
    with torch.no_grad():
        sae.W_enc.add_(torch.randn(sae.W_enc.shape, generator=torch.Generator().manual_seed(seed)) / 10)
    return sae


def transcoder(layer: int) -> SAE:
    sae = SAE(
        WIDTH, 120, TopK(5), subtract_b_dec=False, skip=True,
        site=f"blocks.{layer}.mlp.hook_in", target_site=f"blocks.{layer}.hook_mlp_out",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(layer)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 20)
    return sae


@pytest.fixture
def rows(embedded: Any, tmp_path: Path) -> TokenRows:
    return text_rows(embedded.tokenizer, tmp_path)


def test_figures_are_those_of_each_alone(embedded: Any, rows: TokenRows) -> None:
    """Sites in several layers, of several kinds, one with massive tokens and one without, to the bit."""
    members = [at_layer(2), at_layer(0, k=3), transcoder(1), at_layer(1, kind="hook_mlp_out"), at_layer(2, k=2, seed=5)]
    which = {"first_position": 2, "batch_rows": 3, "drop_tokens": (37,)}
    together = DictionarySet(members, [f"m{number}" for number in range(5)]).eval(embedded, rows, **which)
    by_name = dict(zip(together.names, together.reports, strict=True))
    for number, sae in enumerate(members):
        assert by_name[f"m{number}"].to_json() == saes.evaluate(sae, embedded, rows, **which).to_json()
    assert len({report.fvu.value for report in together.reports}) == 5


def test_the_clean_run_is_shared(embedded: Any, rows: TokenRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes: one for all, two a place (zero, mean) and one a member, beside batches with massive tokens."""
    runs = []
    forward = type(embedded).run_with_hooks
    monkeypatch.setattr(
        type(embedded), "run_with_hooks", lambda self, *a, **k: runs.append(1) or forward(self, *a, **k)
    )
    counts = []
    for members in ([at_layer(2)], [at_layer(2), at_layer(2, k=2)], [at_layer(2), at_layer(1)]):
        runs.clear()
        evaluate_together(members, embedded, rows, batch_rows=8)
        counts.append(len(runs))
    batches = counts[0] // 4
    assert counts == [4 * batches, 5 * batches, 7 * batches]


def test_order_and_ways_to_take_a_member() -> None:
    members = [at_layer(10), at_layer(2), transcoder(3), at_layer(2, kind="hook_mlp_out")]
    found = DictionarySet(members)
    assert found.sites == (
        "blocks.2.hook_mlp_out",
        "blocks.2.hook_resid_post",
        "blocks.3.mlp.hook_in",
        "blocks.10.hook_resid_post",
    )
    assert list(found) == [members[3], members[1], members[2], members[0]]
    assert found["blocks.10.hook_resid_post"] is members[0]
    assert found["gpt_neox.layers.10"] is members[0], "as interp.Site reads names"
    assert found[-1] is members[0]
    assert len(found) == 4
    for which, message in (
        ("blocks.5.hook_resid_post", r"no member reads blocks\.5\.hook_resid_post; take one of blocks\.2"),
        (4, "there is no member 4; there are 4"),
        ("hook_nowhere", "is not the name of a site"),
    ):
        with pytest.raises(ValueError, match=message):
            found[which]
    twice = DictionarySet([at_layer(2), at_layer(2, k=3)], ["k8", "k3"])
    with pytest.raises(ValueError, match=r"several members read blocks\.2\.hook_resid_post; take one of k8, k3"):
        twice["blocks.2.hook_resid_post"]
    assert twice["k3"].activation == TopK(3)
    with pytest.raises(ValueError, match="needs one member at least"):
        DictionarySet([])
    with pytest.raises(ValueError, match="2 members need as many different names, not a, a"):
        DictionarySet([at_layer(2), at_layer(3)], ["a", "a"])


@pytest.mark.parametrize(
    ("layers", "missing"), [((0, 1, 3), (2,)), ((5, 12, 19, 33), (26,)), ((5, 12, 20), ()), ((4,), ()), ((0, 1, 2), ())]
)
def test_layers_that_a_regular_row_leaves_out(layers: tuple[int, ...], missing: tuple[int, ...]) -> None:
    assert DictionarySet([at_layer(layer) for layer in layers]).missing_layers == missing


def test_what_a_folder_holds(tmp_path: Path) -> None:
    for layer in (10, 2):
        write(at_layer(layer), "sparsify", tmp_path / "run" / f"layers.{layer}")
    (tmp_path / "run" / "config.json").write_text('{"model": "EleutherAI/pythia-70m"}')
    at_layer(3).save(tmp_path / "run" / "more" / "deep")
    assert [path.relative_to(tmp_path / "run").as_posix() for path in members_in(tmp_path / "run")] == [
        "layers.2",
        "layers.10",
        "more/deep",
    ]
    found = DictionarySet.load(tmp_path / "run")
    assert found.names == ("layers.2", "more/deep", "layers.10")
    assert found["layers.10"].site == "blocks.10.hook_resid_post"
    assert members_in(tmp_path / "run" / "layers.2") == [], "one SAE is no folder of several"
    (tmp_path / "run" / "optimizer.pt").write_bytes(b"what a trainer leaves beside them")
    deep = tmp_path / "run" / "gemma-scope-2b-pt-res" / "layer_1" / "width_16k" / "average_l0_71" / "x"
    at_layer(1).save(deep)
    assert [path.name for path in members_in(tmp_path / "run")] == ["x", "layers.2", "layers.10", "deep"]
    shutil.rmtree(deep)
    layout = PLACED["qwen_scope"]
    for layer in (0, 1, 11, 2):
        path = layout.write(tmp_path / "qwen", layout.weights())
        path.rename(path.with_name(f"layer{layer}.sae.pt.kept"))
    for kept in list(path.parent.glob("*.kept")):
        kept.rename(kept.with_suffix(""))
    found = DictionarySet.load(path.parent)
    assert found.names == ("layer0.sae.pt", "layer1.sae.pt", "layer2.sae.pt", "layer11.sae.pt")
    assert found.missing_layers == (3, 4, 5, 6, 7, 8, 9, 10)
    assert found.model == "Qwen/Qwen3-1.7B-Base"
    by_list = DictionarySet.load([path.parent / "layer1.sae.pt", tmp_path / "run" / "layers.2"])
    assert len(by_list) == 2
    with pytest.raises(ValueError, match="holds no folders or files that are a dictionary each"):
        DictionarySet.load(tmp_path / "run" / "layers.2")


def test_every_damaged_member_is_named(tmp_path: Path) -> None:
    for layer in range(4):
        at_layer(layer).save(tmp_path / f"l{layer}")
    (tmp_path / "l1" / "sae_weights.safetensors").unlink()
    (tmp_path / "l2" / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match=r"2 of the 4 dictionaries of .*: l1 \(.*; l2 \(") as told:
        DictionarySet.load(tmp_path)
    assert "l0" not in str(told.value).split(":", 1)[1]
    with pytest.raises(ValueError, match=r"1 of the 2 dictionaries .*nowhere"):
        DictionarySet.load([tmp_path / "l0", tmp_path / "nowhere"])


def test_the_command_prints_a_row_a_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = PLACED["sparsify, block"]

    for layer in (0, 2):
        sparsify(tmp_path / "run", layout.weights(), hookpoint=f"layers.{layer}")
    np.save(tmp_path / "ids.npy", token_ids())
    arguments = ["--model", str(saved_model(layout.model, tmp_path)), "--data", str(tmp_path / "ids.npy")]
    arguments += ["--context", str(token_ids().shape[1]), "--bos", "never"]
    out, page = tmp_path / "report.json", tmp_path / "page.html"
    assert run("eval", str(tmp_path / "run"), *arguments, "--save", str(out), "--html", str(page)) == 0
    printed = capsys.readouterr()
    for layer in (0, 2):
        one = tmp_path / f"one{layer}.json"
        assert run("eval", str(tmp_path / "run" / f"layers.{layer}"), *arguments, "--save", str(one)) == 0
        alone = json.loads(one.read_text())
        for name in ("text", "data", "sae"):
            del alone[name]
        member = next(m for m in json.loads(out.read_text())["members"] if m["site"] == alone["site"])
        assert {name: member[name] for name in alone} == alone
        assert f"blocks.{layer}." in printed.out
    assert "FVU" in printed.out
    assert "CE recovered" in " ".join(printed.out.split())
    assert "blocks.2.hook_resid_post" in page.read_text(encoding="utf-8")
    (tmp_path / "run" / "layers.2" / "sae.safetensors").write_bytes(b"")
    assert run("eval", str(tmp_path / "run"), *arguments) != 0
    assert "1 of the 2 dictionaries" in " ".join(capsys.readouterr().err.split())


def test_members_that_were_trained_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = at_layer(0), at_layer(1)
    first.provenance = {"source": {"model": "m", "bos": "row", "drop_first": 1}}
    second.provenance = {"source": {"model": "m", "bos": "never", "drop_first": 1}}
    both = DictionarySet([first, second])
    assert both.model == "m"
    with pytest.raises(ValueError, match=r"bos is row \(blocks\.0.*\), never \(blocks\.1.*\); pass --bos"):
        both.conditions()
    assert both.conditions(frozenset({"bos"})).first_position == 1
    assert both.conditions(frozenset({"bos"})).bos is None
    second.provenance = {"source": {"model": "EleutherAI/pythia-70m"}}
    first.provenance = {"source": {"model": "pythia-70m"}}
    assert both.model == "pythia-70m"
    second.provenance = {"source": {"model": "gpt2"}}
    with pytest.raises(ValueError, match=r"different models: pythia-70m \(.*\), gpt2 \("):
        _ = both.model


def test_the_page_of_members_at_one_site(embedded: Any, rows: TokenRows, tmp_path: Path) -> None:
    report = DictionarySet([at_layer(2), at_layer(2, k=2)], ["k8", "k2"]).eval(embedded, rows)
    path = build_page(report, title="two", data="text").write(tmp_path / "page.html")
    assert "k8: blocks.2.hook_resid_post" in path.read_text(encoding="utf-8")
