"""The measured check holds in every family, and sees what a declaration would be wrong about."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from interp.models.families.table import FAMILIES, family_of
from interp.sites.capturing import capture
from interp.sites.checking import check_declaration, require_declared
from tests.tiny_models import CONFIGS, tiny_model

TOKENS = torch.tensor([[5, 9, 20, 33]])


@pytest.mark.parametrize("case", CONFIGS)
def test_embedding_plus_what_every_block_adds_is_the_final_residual(case: str) -> None:
    found = check_declaration(tiny_model(case))
    assert found.gap < 1e-5
    assert found.tolerance == 1e-4


@pytest.mark.parametrize("case", ["gpt2", "olmo2", "granite", "mixtral", "opt_post_norm"])
def test_half_precision_has_its_own_tolerance(case: str) -> None:
    found = check_declaration(tiny_model(case, dtype=torch.bfloat16))
    assert found.gap < found.tolerance == 8 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(
    ("case", "wrong", "where"),
    [
        ("granite", {"residual_multiplier": 1.0}, "the residual stream behind"),
        ("granite", {"embedding_multiplier": 1.0}, "what enters block 0"),
        ("gpt2", {"position_embedding": None}, "what enters block 0"),
        ("cohere", {"parallel": False}, "behind attention of block"),
        ("gemma2", {"mlp_post_norm": None}, "the residual stream behind block"),
        ("olmo2", {"attention_post_norm": None}, "behind attention of block"),
        ("llama", {"up": None}, "the neurons of block"),
        ("glm4", {"gate_up": None}, "the neurons of block"),
        ("opt_post_norm", {"post_layer_norm": False}, "behind"),
    ],
)
def test_a_wrong_declaration_is_seen(
    monkeypatch: pytest.MonkeyPatch, case: str, wrong: dict[str, Any], where: str
) -> None:
    model = tiny_model(case)
    name = model.config.model_type
    monkeypatch.setitem(FAMILIES, name, replace(family_of(model.config), **wrong))
    assert check_declaration(model).gap > 0.01
    with pytest.raises(ValueError, match=rf"this '{name}' model is not what .* declares: .*{where}"):
        capture(model, TOKENS, "blocks.1.hook_resid_post")


def test_a_changed_block_is_seen_at_the_first_capture_and_the_model_is_left_alone() -> None:

    model = tiny_model("llama")
    require_declared(model)
    state = copy.deepcopy(model.state_dict())
    capture(model, TOKENS, "blocks.1.hook_resid_post")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    changed = tiny_model("llama")
    block = changed.model.layers[1]
    forward = type(block).forward
    block.__class__ = type("Changed", (type(block),), {"forward": lambda *a, **k: 2 * forward(*a, **k)})
    with pytest.raises(ValueError, match="the residual stream behind block 1"):
        capture(changed, TOKENS, "blocks.1.hook_resid_post")
