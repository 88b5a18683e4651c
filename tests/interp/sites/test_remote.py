"""Captures that a server runs: what travels there and back, rehearsed here through nnsight's serialisation."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight.modeling.transformers import TransformersModel
from transformers import PreTrainedTokenizerFast

from interp import capture
from interp.embedded import MODEL_FOLDER
from interp.sites.remote import module_of
from tests.tiny_models import VOCAB, tiny_model

TOKENS = torch.randint(VOCAB, (3, 20), generator=torch.Generator().manual_seed(0))
SITES = ["blocks.1.hook_resid_post", "blocks.*.hook_mlp_out", "transformer.h.0.attn"]


@pytest.fixture(scope="module")
def plain() -> Any:
    model = tiny_model("gpt2")
    model.set_attn_implementation("sdpa")  # as nnsight loads it
    return model


@pytest.fixture
def remote_model(plain: Any, tmp_path: Path) -> TransformersModel:
    """Without weights, as for a model too large to load."""
    plain.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER)
    return TransformersModel(tmp_path, task="text-generation", tokenizer=tokenizer)


@pytest.mark.parametrize("positions", [None, slice(2, 9, 3), [-1, 0]], ids=str)
@pytest.mark.parametrize("stop", [True, False])
def test_a_remote_run_brings_back_the_same_tensors(
    plain: Any, remote_model: TransformersModel, positions: Any, stop: bool
) -> None:
    assert next(module_of(remote_model).parameters()).is_meta
    here = capture(plain, TOKENS, SITES, positions=positions)
    there = capture(remote_model, TOKENS, SITES, positions=positions, stop=stop, engine="nnsight", remote="local")
    assert list(there) == list(here)
    assert all(torch.equal(there[site], here[site]) for site in here)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "hooks"}, "remote runs are traces: pass engine='nnsight', not 'hooks'"),
        ({"reduce": torch.sum}, "reduce and gradients are for runs on this machine"),
        ({"gradients": True}, "reduce and gradients are for runs on this machine"),
        ({"sites": "blocks.9.hook_resid_post"}, "layer 9 of blocks.9.hook_resid_post is out of range"),
        ({"positions": [99]}, "positions=[99]"),
        ({"tokens": [[VOCAB]]}, f"token {VOCAB} is not in the vocabulary"),
    ],
)
def test_nonsense_is_refused(remote_model: TransformersModel, changes: dict[str, Any], message: str) -> None:
    call = {"tokens": TOKENS, "sites": SITES, "engine": "nnsight", "remote": "local"} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        capture(remote_model, **call)


def test_a_model_that_nnsight_cannot_send_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot run elsewhere; pass nnsight's TransformersModel"):
        capture(plain, TOKENS, SITES, engine="nnsight", remote=True)
