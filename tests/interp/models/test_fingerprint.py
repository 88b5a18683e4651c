"""Fingerprints tell weights apart by their bits and by nothing else; step folders are read in order of training."""

import hashlib
from pathlib import Path

import pytest
import torch

from interp.models.fingerprint import weights_fingerprint
from interp.models.loading import load_model
from interp.models.revisions import revision_folder, step_folders
from tests.tiny_models import FAMILIES, tiny_model


def by_hand(model: torch.nn.Module) -> str:
    """The fingerprint's definition, from the state dict of a plain model."""
    lines = [
        f"{name} {t.dtype} {tuple(t.shape)} {hashlib.sha256(t.contiguous().view(torch.uint8).numpy()).hexdigest()}\n"
        for name, t in model.state_dict().items()
    ]
    return "sha256:" + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.mark.parametrize("family", FAMILIES)
def test_bridge_and_plain_model_agree_wherever_they_are_loaded_from(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    expected = by_hand(model)
    assert weights_fingerprint(model) == expected
    for place in ("here", "there"):
        model.save_pretrained(tmp_path / place)
        assert weights_fingerprint(load_model(tmp_path / place)) == expected


def test_one_bit_of_one_weight_changes_it() -> None:
    model = tiny_model("gpt_neox")
    before = weights_fingerprint(model)
    weight = model.gpt_neox.layers[2].mlp.dense_4h_to_h.weight.detach()
    weight.view(torch.int32)[-1, -1] ^= 1
    after = weights_fingerprint(model)
    weight.view(torch.int32)[-1, -1] ^= 1
    assert after != before
    assert weights_fingerprint(model) == before


def test_another_dtype_or_seed_is_another_fingerprint() -> None:
    assert len({weights_fingerprint(tiny_model("llama", dtype=d)) for d in (torch.float32, torch.bfloat16)}) == 2
    assert weights_fingerprint(tiny_model("llama", seed=0)) != weights_fingerprint(tiny_model("llama", seed=1))


def test_tied_and_untied_weights_of_equal_value_agree() -> None:
    tied, untied = tiny_model("gpt2"), tiny_model("gpt2")
    untied.lm_head.weight = torch.nn.Parameter(tied.transformer.wte.weight.detach().clone())
    untied.transformer.wte.weight = torch.nn.Parameter(tied.transformer.wte.weight.detach().clone())
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert weights_fingerprint(untied) == weights_fingerprint(tied)


def test_a_large_weight_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(
        "interp.models.fingerprint._BLOCK_BYTES", 300
    )  # two rows of 32 float32, and less than one of 80
    assert weights_fingerprint(model) == by_hand(model)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training run with two whole steps, one without a model and others that only look like one."""
    for name in ("step1000", "step20", "step3.5", "stepladder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "step30").mkdir()
    return tmp_path


def test_steps_are_in_order_of_training(run: Path) -> None:
    assert list(step_folders(run).items()) == [("step20", run / "step20"), ("step1000", run / "step1000")]
    assert revision_folder(run, None) == (run / "step1000", "step1000")
    assert revision_folder(run, "step20") == (run / "step20", "step20")


def test_a_model_beside_steps_is_what_no_revision_means(run: Path) -> None:
    (run / "config.json").write_text("{}")
    assert revision_folder(run, None) == (run, None)


@pytest.mark.parametrize("revision", ["step30", "step0020", "../step20", "main"])
def test_a_missing_revision_lists_those_there_are(run: Path, revision: str) -> None:
    with pytest.raises(ValueError, match=rf"no revision '{revision}'; it has step20, step1000$"):
        revision_folder(run, revision)


def test_folders_without_steps_or_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model: neither a config\.json nor step\{N\} folders"):
        revision_folder(tmp_path, None)
    with pytest.raises(ValueError, match=r"has no revision 'step1'; it has no step\{N\} folders, so leave revision"):
        revision_folder(tmp_path, "step1")
