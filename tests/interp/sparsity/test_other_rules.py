"""Top-k and one threshold for all layers: against brute force, and what comes at the two ends."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from interp import metrics
from interp.models.loading import load_model
from interp.sites.capturing import capture
from interp.sparsity import kept_at_perplexity
from interp.sparsity.other_rules import _threshold

TOKENS = torch.randint(0, 64, (3, 24), generator=torch.Generator().manual_seed(0))
NEURONS = 48


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random gated model."""
    folder = tmp_path_factory.mktemp("gated")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=NEURONS,
        max_position_embeddings=32,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return load_model(folder)


def ratio(model: Any, masks: list[torch.Tensor]) -> float:
    """Perplexity with every MLP's activations multiplied by its mask, by hooks of its own."""
    modules = [block.mlp.out.original_component for block in model.blocks]
    with torch.no_grad():
        before = float(metrics.cross_entropy(model(TOKENS), TOKENS).mean())
        handles = [
            module.register_forward_pre_hook(
                lambda _m, args, mask=mask, number=number: (args[0] * mask(args[0], number),)
            )
            for number, (module, mask) in enumerate(zip(modules, masks, strict=True))
        ]
        after = float(metrics.cross_entropy(model(TOKENS), TOKENS).mean())
        for handle in handles:
            handle.remove()
    return math.exp(after - before)


def topk(k: int) -> Any:
    def mask(a: torch.Tensor, _number: int) -> torch.Tensor:
        return (a.abs() >= a.abs().topk(k, dim=-1).values[..., -1:]).float()

    return mask


def test_topk_is_the_fewest_that_suffice(gated: Any) -> None:
    found = kept_at_perplexity(gated, TOKENS, rule="topk", p=2.0)
    k = int(found.level)
    assert found.perplexity_ratio == pytest.approx(ratio(gated, [topk(k)] * 2), abs=1e-4)
    assert found.perplexity_ratio <= 1.02 < ratio(gated, [topk(k - 1)] * 2)
    assert found.active.value == pytest.approx(k / NEURONS)
    assert found.active.n == 3


def test_one_threshold_for_all_layers(gated: Any) -> None:
    found = kept_at_perplexity(gated, TOKENS, rule="fat", p=2.0)
    masks = [lambda a, _number: (a.abs() > found.level).float()] * 2
    assert found.perplexity_ratio == pytest.approx(ratio(gated, masks), abs=1e-4)
    assert 1.0 < found.perplexity_ratio <= 1.02
    assert 0 < found.active.value < 1
    more = kept_at_perplexity(gated, TOKENS, rule="fat", p=20.0)
    assert more.level > found.level
    assert more.active.value < found.active.value


def test_the_gate_decides_where_it_is_asked_to(gated: Any) -> None:
    """Another half of the neurons is kept, and it is the one with the larger activated gates."""
    found = kept_at_perplexity(gated, TOKENS, rule="topk", p=5.0, scored="gate")
    k = int(found.level)
    gates: dict[int, torch.Tensor] = {}
    modules = [block.mlp._modules["gate"] for block in gated.blocks]
    handles = [
        module.register_forward_hook(lambda _m, _a, out, n=n: gates.__setitem__(n, torch.nn.functional.silu(out)))
        for n, module in enumerate(modules)
    ]

    def mask(a: torch.Tensor, number: int) -> torch.Tensor:
        gate = gates[number].abs()
        assert gate.shape == a.shape
        return (gate >= gate.topk(k, dim=-1).values[..., -1:]).float()

    measured = ratio(gated, [mask, mask])
    for handle in handles:
        handle.remove()
    assert found.perplexity_ratio == pytest.approx(measured, abs=1e-4)
    product = kept_at_perplexity(gated, TOKENS, rule="topk", p=5.0)
    assert k > product.level, "the gate alone knows less"


def test_nothing_is_left_behind_and_ends_are_ends(gated: Any) -> None:
    before = gated(TOKENS)
    all_gone = kept_at_perplexity(gated, TOKENS, rule="fat", p=1e9)
    assert all_gone.active.value == 0
    a = capture(gated, TOKENS, ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"])
    assert all_gone.level == pytest.approx(max(float(each.abs().max()) for each in a.values()), rel=1e-4)
    assert kept_at_perplexity(gated, TOKENS, rule="topk", p=1e9).level == 1
    assert torch.equal(gated(TOKENS), before)
    assert _threshold(lambda _octave: 2.0, 1.01) == 0.0, "where the finest costs more"
    assert _threshold(lambda octave: 1 + 2.0**octave, 1.01) == pytest.approx(0.01, rel=0.01)


def test_refusals(gated: Any) -> None:
    with pytest.raises(ValueError, match=r"p=0\.0 must be a positive"):
        kept_at_perplexity(gated, TOKENS, rule="topk", p=0.0)


def test_the_bridge_gives_what_a_plain_mlp_has_in_place_of_a_gate() -> None:
    model = load_model("embedded")
    tokens = TOKENS[:1]
    plain, gate = (kept_at_perplexity(model, tokens, rule="topk", p=5.0, scored=s) for s in ("product", "gate"))
    assert (plain.level, plain.active) == (gate.level, gate.active)
