"""Steering by vectors in every declared family, against a hook on the Hugging Face block by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.models.families.table import family_of
from interp.models.feed_forward import stack_of
from interp.sites.capturing import capture
from interp.sites.site import available_sites
from interp.steering.edits import steer, steer_residual
from interp.steering.site_edits import intervene
from tests.interp.sites.edits_by_hand import added, hooked
from tests.interp.sites.family_oracle import FACTS
from tests.tiny_models import CONFIGS, IN_A_BRIDGE, WIDTH, cases, tiny_model

TOKENS = torch.tensor([[5, 9, 20, 33, 41, 8], [7, 7, 30, 12, 2, 50]])


def by_hand(case: str, model: Any, vector: Tensor, *, last_only: bool) -> Tensor:
    def add(stream: Tensor) -> Tensor:
        where = torch.arange(stream.shape[1]) >= (stream.shape[1] - 1 if last_only else 0)
        return stream + 2 * vector * where[:, None]

    with hooked(model.get_submodule(f"{FACTS[case]['at']}.1"), False, add):
        return model(TOKENS).logits


@pytest.mark.parametrize("case", cases(CONFIGS))
@torch.no_grad()
def test_a_vector_is_added_after_a_block(case: str) -> None:
    model = tiny_model(case)
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    before = model(TOKENS).logits
    for scope in ("all", "last"):
        with steer_residual(model, {1: vector}, value=2.0, scope=scope):
            found = model(TOKENS).logits
        expected = by_hand(case, model, vector, last_only=scope == "last")
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found, before)


@pytest.mark.parametrize("case", ["gptj", "phi", "falcon_7b", "cohere", "qwen3", "granite", "glm4", "starcoder2"])
@torch.no_grad()
def test_neurons_are_set_in_families_with_other_names(case: str) -> None:
    model = tiny_model(case)
    down = model.get_submodule(f"{FACTS[case]['at']}.1.mlp.{FACTS[case]['down']}")
    assert stack_of(model).down[1] is down
    seen: list[Tensor] = []
    with steer(model, neurons=[(1, 3)], value=6.0):
        handle = down.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        model(TOKENS)
        handle.remove()
    assert (seen[0][..., 3] == 6).all()


def test_neurons_of_mixtures_and_of_a_flat_mlp_are_refused() -> None:
    with pytest.raises(ValueError, match="Mixtures of experts"), steer(tiny_model("mixtral"), neurons=[], value=1.0):
        pass
    with pytest.raises(ValueError, match="use steer_residual"), steer(tiny_model("opt"), neurons=[], value=1.0):
        pass


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("case", cases(IN_A_BRIDGE))
@torch.no_grad()
def test_an_edit_at_a_named_site_does_what_the_same_change_of_the_modules_does(bridges: Any, case: str) -> None:
    """At every site that is not refused: the logits are those of the plain modules with hooks by hand."""
    bridge, model = bridges(case), tiny_model(case)
    family = family_of(model.config)
    before = model(TOKENS).logits
    for site in available_sites(bridge):
        if site.layer not in (None, 1):
            continue
        if site.kind.endswith("_scale") or site.kind not in family.editable:
            with (
                pytest.raises(ValueError, match=r"can be read, not set|cannot be edited"),
                intervene(bridge, {site: 0.0}),
            ):
                pass
            continue
        value = capture(bridge, TOKENS, site)[site]
        size = value[value > -1e30].abs().mean() / 2
        addend = size * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        with added(case, model, site, addend):
            expected = model(TOKENS).logits
        with intervene(bridge, {site: lambda value, addend=addend: value + addend}):
            found = bridge.original_model(TOKENS).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()), msg=str(site))
        assert (expected - before).abs().max() > 1e-3 * before.abs().max(), f"{site} is not read by anything"


@pytest.mark.filterwarnings("ignore:A hook on")
@pytest.mark.parametrize(("case", "kind"), [("gptj", "pattern"), ("gpt_neo", "pattern"), ("opt", "pattern")])
def test_what_is_refused_as_unread_is_indeed(bridges: Any, case: str, kind: str) -> None:
    bridge = bridges(case)
    with torch.no_grad():
        before = bridge.original_model(TOKENS).logits
        with bridge.hooks(fwd_hooks=[(f"blocks.1.attn.hook_{kind}", lambda value, hook: value * 0)]):
            assert torch.equal(bridge.original_model(TOKENS).logits, before)
    with (
        pytest.raises(
            ValueError, match="cannot be edited: no test compared what comes of it, or it is not what follows"
        ),
        intervene(bridge, {f"blocks.1.attn.hook_{kind}": 0.0}),
    ):
        pass
