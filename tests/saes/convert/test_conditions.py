"""How the model was run where a dictionary was trained: its files say, measurements take it, and say so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.embedded import MODEL_FOLDER
from saes import SAE, ReLU, TopK
from saes.conditions import Conditions, conditions_of
from saes.convert import write
from saes.same_model import said_model
from tests.saes.convert.by_hand import CONTEXT, K, Layout, activations, saved_model, token_ids, topk
from tests.saes.convert.layouts import BLOCK, NEOX, PLACED, RESID_POST, gemma_scope_2, saelens, sparsify
from tests.saes.evaluation.evaluated import SITE, WIDTH, run, sae_at_site, text_rows

SAELENS = {
    "context_size": 12,
    "prepend_bos": True,
    "exclude_special_tokens": True,
    "seqpos_slice": [2, None],
    "model_from_pretrained_kwargs": {"center_writing_weights": True, "fold_ln": False, "dtype": "torch.bfloat16"},
}


def written(folder: Path, **metadata: Any) -> SAE:
    layout = PLACED["saelens, residual"]
    said = {"hook_name": RESID_POST, "model_name": NEOX} | metadata
    return SAE.load(saelens(folder, layout.weights(), architecture="standard", metadata=said))


def test_what_the_files_say(tmp_path: Path) -> None:
    note = "the model of its training was loaded with center_writing_weights=True, which this one is not"
    assert conditions_of(written(tmp_path / "a", **SAELENS).provenance) == Conditions(
        context=12, bos="row", first_position=2, drop_special=True, dtype="bfloat16", notes=(note,)
    )
    found = conditions_of(written(tmp_path / "b", exclude_special_tokens=[0, 5], prepend_bos=False).provenance)
    assert found == Conditions(bos="never", drop_tokens=(0, 5))
    found = conditions_of(written(tmp_path / "c", seqpos_slice=[1, -1], exclude_special_tokens=False).provenance)
    assert (found.first_position, found.drop_special) == (1, False)
    assert found.notes == ("it was trained on the positions [1, -1] of a row (start, stop, step) alone",)
    w = PLACED["saelens, residual"].weights()
    old = saelens(tmp_path / "d", w, hook_point=RESID_POST, context_size=128)
    assert conditions_of(SAE.load(old).provenance) == Conditions(context=128, bos="row")
    above = {"ctx_len": 64, "model": "EleutherAI/pythia-70m"}
    folder = sparsify(tmp_path / "e", w, hookpoint=BLOCK, above=above)
    assert conditions_of(SAE.load(folder).provenance) == Conditions(context=64)
    layout = PLACED["dictionary_learning, layer"]
    assert conditions_of(SAE.load(layout.write(tmp_path / "f", layout.weights())).provenance) == Conditions(context=12)


@pytest.mark.parametrize(("tuned", "first"), [("pt", None), ("it", 4)])
def test_the_start_of_a_chat_is_left_out(tuned: str, first: int | None, tmp_path: Path) -> None:
    """Gemma Scope 2 of an instruction-tuned model."""
    below = f"gemma-scope-2-1b-{tuned}/resid_post/layer_1_width_16k_l0_small"
    w = PLACED["gemma_scope 2, resid_post"].weights()
    for number, config in enumerate((None, {"model_name": f"gemma-v3-1b-{tuned}"})):
        sae = SAE.load(gemma_scope_2(tmp_path / str(number), w, below=below, config=config))
        assert conditions_of(sae.provenance) == Conditions(context=1024, bos="row", first_position=first)
        assert sae.provenance["imported"]["model"] == f"google/gemma-3-1b-{tuned}"


def test_values_that_mean_nothing_are_left_out(tmp_path: Path) -> None:
    bad = {
        "context_size": "12",
        "prepend_bos": "yes",
        "exclude_special_tokens": ["a", -1, 2.5, None],
        "seqpos_slice": ["x"],
        "model_from_pretrained_kwargs": ["fold_ln"],
    }
    assert conditions_of(written(tmp_path / "a", **bad).provenance) == Conditions()
    assert conditions_of(written(tmp_path / "b", context_size=-3, seqpos_slice=[-2, None]).provenance) == Conditions()
    sae = SAE(8, 24, ReLU(), provenance={"imported": {"text": [1]}, "source": "x"})
    assert conditions_of(sae.provenance) == Conditions()


def test_eval_takes_them_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted are the tokens that training saw, and each default can be changed."""
    np.save(tmp_path / "ids.npy", token_ids())
    model = saved_model(NEOX, tmp_path)
    x = activations(NEOX)[f"{BLOCK}.output"]
    folder = tmp_path / "sae"
    ids = torch.from_numpy(token_ids().astype(np.int64))
    metadata = SAELENS | {"exclude_special_tokens": [3, 7], "context_size": CONTEXT, "hook_name": RESID_POST}
    layout = Layout(
        model=NEOX,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=lambda root, w: saelens(root, w, architecture="topk", k=K, metadata=metadata | {"model_name": NEOX}),
        compute=topk,
    )
    sae = layout.write(folder, layout.weights())
    out = tmp_path / "report.json"
    arguments = ["eval", str(sae), "--model", str(model), "--data", str(tmp_path / "ids.npy"), "--save", str(out)]

    def fvu(kept: torch.Tensor) -> float:
        target, output = x[kept], topk(layout.weights(), x)[1][kept]
        return float((target - output).square().sum() / (target - target.mean(0)).square().sum())

    assert run(*arguments) == 0
    report, said = json.loads(out.read_text()), capsys.readouterr().err
    kept = ~torch.isin(ids, torch.tensor([3, 7]))
    kept[:, :2] = False
    assert report["fvu"]["value"] == pytest.approx(fvu(kept), rel=1e-4)
    assert report["tokens"] == int(kept.sum())
    assert report["text"] == {
        "context": CONTEXT,
        "packing": "packed",
        "bos": "model",  # there is no tokenizer that knows one
        "first_position": 2,
        "drop_special": False,
        "drop_tokens": [3, 7],
        "dtype": "float32",
    }
    assert f"--context {CONTEXT}" in said
    assert "--first-position 2" in said
    assert "without the tokens 3, 7 (--no-drop-special for all)" in said
    assert "loaded with center_writing_weights=True" in said
    assert "it was trained on a model in bfloat16, measured in float32 (--dtype bfloat16)" in said
    assert run(*arguments, "--first-position", "0", "--no-drop-special") == 0
    everything = json.loads(out.read_text())
    assert everything["tokens"] == ids.numel()
    assert everything["fvu"]["value"] == pytest.approx(fvu(torch.ones_like(kept)), rel=1e-4)
    assert run(*arguments, "--dtype", "bfloat16") == 0
    assert json.loads(out.read_text())["fvu"]["value"] != report["fvu"]["value"]


def test_special_tokens_of_the_embedded_model(embedded: Any, tmp_path: Path) -> None:
    """BOS in front of every row, and left out, by what an SAE's files say, in eval, features and dark matter alike."""
    sae = sae_at_site(ReLU())
    sae.provenance = {"imported": {"format": "saelens", "text": {"bos": "row", "drop_special": True, "context": 24}}}
    sae.save(tmp_path / "sae")
    rows = text_rows(embedded.tokenizer, tmp_path, bos="row")
    out = tmp_path / "report.json"
    arguments = [str(tmp_path / "sae"), "--model", str(MODEL_FOLDER), "--data", str(tmp_path / "text.jsonl")]
    assert run("eval", *arguments, "--packing", "document", "--save", str(out)) == 0
    report = json.loads(out.read_text())
    kept = (rows.documents >= 0) & ~np.isin(rows.ids, rows.info["special_ids"])
    assert 0 < kept.sum() < (rows.documents >= 0).sum()
    assert report["tokens"] == int(kept.sum())
    assert run("sae", "features", *arguments, "--packing", "document", "--html", str(tmp_path / "page.html")) == 0
    assert f"{int(kept.sum()):,} tokens" in (tmp_path / "page.html").read_text()
    assert (sae.site, sae.d_in) == (SITE, WIDTH)


def test_dark_matter_leaves_out_what_was_left_out() -> None:
    from saes.dark_matter.settings import Settings
    from saes.dark_matter.study import _as_trained

    said = {"imported": {"text": {"first_position": 4, "drop_special": True}}}
    saes = {"a": SAE(8, 24, ReLU(), provenance=said), "b": SAE(8, 24, ReLU())}
    settings, told = _as_trained(Settings(), saes, None)
    assert (settings.drop_first, settings.drop_special) == (4, False), "special ids are not known without the rows"
    assert told == ("positions before 4 are left out, as in the SAEs' training (drop_first)",)
    settings, told = _as_trained(Settings(drop_first=0, drop_special=False), saes, None)
    assert (settings.drop_first, settings.drop_special, told) == (0, False, ())


def test_they_reach_saelens(tmp_path: Path) -> None:
    source = {"model": "EleutherAI/pythia-70m", "context": 128, "bos": "row", "drop_first": 1, "drop_special": True}
    write(SAE(8, 24, ReLU(), site=RESID_POST, provenance={"source": source}), "saelens", tmp_path / "a")
    metadata = json.loads((tmp_path / "a" / "cfg.json").read_text())["metadata"]
    said = {"context_size": 128, "prepend_bos": True, "exclude_special_tokens": True, "seqpos_slice": [1, None]}
    assert said.items() <= metadata.items()
    again = conditions_of(SAE.load(tmp_path / "a").provenance)
    assert again == Conditions(context=128, bos="row", first_position=1, drop_special=True)
    write(SAE.load(tmp_path / "a"), "saelens", tmp_path / "b")
    assert conditions_of(SAE.load(tmp_path / "b").provenance) == again
    assert json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]["model_name"] == "EleutherAI/pythia-70m"


@pytest.mark.parametrize("tool", ["saelens", "sparsify", "dictionary_learning"])
def test_what_a_third_tool_said_is_not_lost(tool: str, tmp_path: Path) -> None:
    """SAELens's conditions, in files of another tool that has no words for them, and back."""
    said = written(tmp_path / "theirs", **SAELENS)
    topk = SAE(said.d_in, 24, TopK(2), site=RESID_POST, provenance=said.provenance)
    write(topk, tool, tmp_path / tool)
    loaded = SAE.load(tmp_path / tool)
    assert said_model(loaded) == NEOX
    assert conditions_of(loaded.provenance) == conditions_of(said.provenance)


@pytest.mark.parametrize("tool", ["saelens", "sparsify", "dictionary_learning"])
def test_there_and_back_model_checkpoint_and_text_are_known(tool: str, tmp_path: Path) -> None:
    """Of a file that we wrote; in the second round nothing has grown."""
    source = {"model": "pythia-70m", "revision": "step1000", "context": 24, "bos": "never"}
    sae = SAE(8, 24, TopK(2), site=RESID_POST, provenance={"source": source, "train": {"k": 2}})
    sizes = []
    for round_ in range(3):
        write(sae, tool, tmp_path / f"{tool}{round_}")
        sae = SAE.load(tmp_path / f"{tool}{round_}")
        assert said_model(sae) == "pythia-70m"
        assert sae.provenance["source"] == source
        assert sae.provenance["train"] == {"k": 2}
        assert conditions_of(sae.provenance) == Conditions(context=24, bos="never")
        sizes.append(len(json.dumps(sae.provenance)))
    assert sizes[2] == sizes[1]


@pytest.mark.parametrize("kept", ["x", 3, {"source": "x", "train": 5}, {"source": ["model"]}])
def test_what_a_foreign_file_says_for_us_is_not_trusted(kept: object, tmp_path: Path) -> None:
    write(SAE(8, 24, TopK(2), site=RESID_POST), "dictionary_learning", tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    config["trainer"]["deepfield"] = kept
    path.write_text(json.dumps(config))
    found = SAE.load(tmp_path / "a").provenance
    assert set(found) == {"imported"}
