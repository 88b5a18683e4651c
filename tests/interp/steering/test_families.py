"""Steering by vectors in every declared family, against a hook on the Hugging Face block by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.models.feed_forward import stack_of
from interp.steering.edits import steer, steer_residual
from tests.interp.sites.family_oracle import FACTS
from tests.tiny_models import CONFIGS, WIDTH, tiny_model

TOKENS = torch.tensor([[5, 9, 20, 33, 41, 8], [7, 7, 30, 12, 2, 50]])


def by_hand(case: str, model: Any, vector: Tensor, *, last_only: bool) -> Tensor:
    def add(_module: Any, _args: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[:, -1 if last_only else slice(None)] += 2 * vector
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = model.get_submodule(f"{FACTS[case]['at']}.1").register_forward_hook(add)
    try:
        return model(TOKENS).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("case", CONFIGS)
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
