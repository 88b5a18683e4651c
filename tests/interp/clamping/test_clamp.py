"""Clamps set what they say, leave the rest to the bit, and let exactly the right gradients through."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.clamping import (
    Ablate,
    Graft,
    Induction,
    NoPrevious,
    Preserve,
    Previous,
    Temperature,
    clamp,
    clamped_losses,
    earlier_occurrences,
    induction_strength,
    measurement,
    parse_rules,
    repeated_rows,
)
from interp.models.loading import load_model
from interp.sites.capturing import capture
from interp.steering.site_edits import intervene
from tests.tiny_models import FAMILIES, HEADS, VOCAB, as_bridge, tiny_model

TOKENS = torch.randint(1, VOCAB, (2, 8), generator=torch.Generator().manual_seed(4))
TOKENS[:, 6] = TOKENS[:, 2]
UNIQUE = torch.arange(1, 9)[None]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    found = as_bridge(tiny_model(request.param))
    before = hooks(found)
    yield found
    assert hooks(found) == before


def hooks(model: Any) -> int:
    """But for those that the bridge and transformers put on at the first pass, and leave."""
    points = sum(len(point.fwd_hooks) for point in model.hook_dict.values())
    others = [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    own = ("transformers.utils.output_capturing", "transformer_lens.model_bridge")
    return points + sum(not str(getattr(hook, "__module__", "")).startswith(own) for hook in others)


def pattern(model: Any, layer: int, tokens: Tensor = TOKENS) -> Tensor:
    return capture(model, tokens, f"blocks.{layer}.attn.hook_pattern")[f"blocks.{layer}.attn.hook_pattern"]


def test_previous_and_induction_set_one_head_and_leave_its_group_mates(model: Any) -> None:
    clean = pattern(model, 0)
    with clamp(model, [Previous(layer=0, head=1, strength=0.75), Induction(layer=0, head=2, strength=0.5)]):
        found = pattern(model, 0)
    assert torch.allclose(found[:, [0, 3]], clean[:, [0, 3]], atol=1e-6)
    expected = 0.25 * torch.eye(8) + 0.75 * torch.diag(torch.ones(7), -1)
    expected[0, 0] = 1
    assert torch.equal(found[:, 1], expected.expand(2, 8, 8))
    row = torch.tensor([1, 1, 1, 0, 1, 1, 1, 0]) * 0.5 / 6
    row[3] = 0.5
    assert torch.allclose(found[:, 2, 6], row.expand(2, 8), atol=1e-6)
    rest = [0, 1, 2, 3, 4, 5]  # no earlier occurrence
    assert torch.allclose(found[:, 2, rest], clean[:, 2, rest], atol=1e-6)


def test_rows_of_labels_only(model: Any) -> None:
    clean = pattern(model, 0)
    with clamp(model, Previous(layer=0, head=0, rows="odd")):
        found = pattern(model, 0)
    assert torch.allclose(found[:, 0, ::2], clean[:, 0, ::2], atol=1e-6)
    assert torch.equal(found[0, 0, 1::2].argmax(-1), torch.tensor([0, 2, 4, 6]))
    pairs = torch.tensor([[1, 2, 3, 4, 1]])  # item, label, item, label, query
    for strength in (1.0, 0.7, 0.4):
        with clamp(model, Induction(layer=1, head=1, strength=strength, rows="last", labels=True)):
            last = pattern(model, 1, pairs)[0, 1, -1]
        assert last.tolist() == pytest.approx([0, strength, 0, 1 - strength, 0], abs=1e-6)


def test_without_effect_logits_and_gradients_are_the_same_bits(model: Any) -> None:
    """No token occurs twice, so that no row is chosen."""

    def run() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        logits = model(UNIQUE)
        logits.square().mean().backward()
        return logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.requires_grad_(True)
    logits, gradients = run()
    with clamp(model, [Induction(layer=1, head=0), Preserve(layer=2, what="pattern")]):
        found, others = run()
    assert torch.equal(found, logits)
    with clamp(model, Induction(layer=1, head=0)):
        found, others = run()
    assert torch.equal(found, logits)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def gradients_of(model: Any, contexts: Any) -> dict[str, Tensor]:
    model.requires_grad_(True)
    model.zero_grad()
    with contexts:
        model(TOKENS).log_softmax(-1)[..., 5].sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_what_makes_a_clamped_pattern_gets_no_gradient_and_the_rest_the_right_one() -> None:
    """Against a run with the clamped pattern put there as a constant."""
    model = as_bridge(tiny_model("llama"))
    found = gradients_of(model, clamp(model, [Previous(layer=1, head=h) for h in range(HEADS)]))
    with clamp(model, [Previous(layer=1, head=h) for h in range(HEADS)]):
        constant = pattern(model, 1).detach()
    expected = gradients_of(model, intervene(model, {"blocks.1.attn.hook_pattern": constant}))
    assert expected.keys() <= found.keys()
    for name, gradient in found.items():
        if "layers.1" in name and ("q_proj" in name or "k_proj" in name):
            assert not gradient.any(), name
        else:
            assert gradient.any(), name
        assert torch.allclose(gradient, expected.get(name, torch.zeros(1)), atol=1e-6), name
    one = gradients_of(model, clamp(model, Previous(layer=1, head=3)))
    of_queries = next(g for name, g in one.items() if "layers.1" in name and "q_proj" in name)
    assert not of_queries.unflatten(0, (HEADS, -1))[3].any()
    assert of_queries.unflatten(0, (HEADS, -1))[:3].abs().sum((1, 2)).all()


def test_an_ablated_head_writes_nothing_and_its_group_mate_all(model: Any) -> None:
    sites = ["blocks.1.attn.hook_z", "blocks.1.attn.hook_v"]
    clean = capture(model, TOKENS, sites)
    with clamp(model, Ablate(layer=1, head=2)):
        found = capture(model, TOKENS, sites)
    assert not found[sites[0]][:, :, 2].any()
    assert torch.allclose(found[sites[0]][:, :, [0, 1, 3]], clean[sites[0]][:, :, [0, 1, 3]], atol=1e-5)
    assert torch.allclose(found[sites[1]], clean[sites[1]], atol=1e-5)


def test_scores_that_are_forbidden_or_tempered(model: Any) -> None:
    clean = pattern(model, 0)
    with clamp(model, NoPrevious(layer=0, head=1)):
        found = pattern(model, 0)
    before = torch.diag(torch.ones(7), -1).bool()
    assert not found[:, 1][:, before].any()
    allowed = clean[:, 1].masked_fill(before, 0)
    assert torch.allclose(found[:, 1], allowed / allowed.sum(-1, keepdim=True), atol=1e-5)
    with clamp(model, Temperature(layer=0, head=1, temperature=2.0)):
        found = pattern(model, 0)
    root = clean[:, 1].sqrt()
    assert torch.allclose(found[:, 1], root / root.sum(-1, keepdim=True), atol=1e-4)
    with clamp(model, Temperature(layer=0, head=1, temperature=1.0)):
        assert torch.allclose(pattern(model, 0), clean, atol=1e-6)


@pytest.mark.parametrize("what", ["pattern", "v", "q", "k"])
def test_what_is_preserved_is_that_of_a_pass_without_clamps(model: Any, what: Any) -> None:
    """Ablations before would change layer 2; there, another rule overrides what is preserved."""
    name = f"blocks.2.attn.hook_{what}"
    clean = capture(model, TOKENS, name)[name]
    ablations = [Ablate(layer=0, head=h) for h in range(HEADS)]
    with clamp(model, ablations):
        assert not torch.allclose(capture(model, TOKENS, name)[name], clean)
    with clamp(model, [*ablations, Preserve(layer=2, what=what)]):
        assert torch.allclose(capture(model, TOKENS, name)[name], clean, atol=1e-5)
    if what == "pattern":
        with clamp(model, [Previous(layer=2, head=0), *ablations, Preserve(layer=2, what=what)]):
            found = capture(model, TOKENS, name)[name]
        assert torch.allclose(found[:, 1:], clean[:, 1:], atol=1e-6)
        assert found[0, 0, 5, 4] == 1


def test_a_graft_brings_the_other_models_stream(model: Any) -> None:
    other = as_bridge(tiny_model(model.original_model.config.model_type.removesuffix("_text"), seed=1))
    name = "blocks.1.hook_resid_post"
    with clamp(model, Graft(layer=1, model=other)):
        assert torch.equal(capture(model, TOKENS, name)[name], capture(other, TOKENS, name)[name])
    same = as_bridge(tiny_model(model.original_model.config.model_type.removesuffix("_text")))
    with clamp(model, Graft(layer=2, model=same)):
        grafted = model(TOKENS)
    assert torch.allclose(grafted, model(TOKENS), atol=1e-4)


def test_a_training_loop_within_a_clamp() -> None:
    """The clamped head's queries and keys stay; weight decay alone would move them."""
    model = as_bridge(tiny_model("llama"))
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    names = dict(model.named_parameters())
    name = next(n for n in names if "layers.0" in n and "q_proj" in n)
    before = names[name].detach().clone()
    losses = []
    with clamp(model, Previous(layer=0, head=0)):
        for _ in range(20):
            loss = torch.nn.functional.cross_entropy(model(TOKENS)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = (names[name].detach() - before).unflatten(0, (HEADS, -1)).abs().sum((1, 2))
    assert moved[0] == 0
    assert (moved[1:] > 0).all()


def test_what_is_measured_inside_is_the_clamped_pass_not_the_clean_one(model: Any) -> None:
    """Hooks that others put on inside see one pass, and stay on."""
    seen: list[Tensor] = []
    with clamp(model, [Ablate(layer=0, head=0), Temperature(layer=1, head=0, temperature=3.0)]):
        first = pattern(model, 1)
        handle = model.blocks[0].register_forward_hook(lambda *_: seen.append(torch.zeros(1)))
        model(TOKENS)
        again = pattern(model, 1)
        handle.remove()
    assert len(seen) == 2
    assert torch.equal(first, again)
    assert not torch.allclose(first, pattern(model, 1))


def test_errors_leave_no_hooks_and_say_what_is_wrong(model: Any) -> None:
    with pytest.raises(KeyError), clamp(model, Preserve(layer=1, what="v")):
        raise KeyError
    with pytest.raises(ValueError, match="layer 7 of"), clamp(model, Ablate(layer=7, head=0)):
        pass
    with pytest.raises(ValueError, match="head 4 of"), clamp(model, Previous(layer=0, head=4)):
        pass
    with pytest.raises(ValueError, match="a share of attention"), clamp(model, Previous(layer=0, head=0, strength=2.0)):
        pass
    with pytest.raises(ValueError, match="above 0"), clamp(model, Temperature(layer=0, head=0, temperature=0.0)):
        pass
    with pytest.raises(ValueError, match="give one rule"), clamp(model, []):
        pass
    cached = model.original_model(TOKENS[:, :4], use_cache=True).past_key_values
    with clamp(model, Previous(layer=0, head=0)), pytest.raises(ValueError, match="pass use_cache=False"):
        model.original_model(TOKENS[:, 4:], past_key_values=cached, use_cache=True)


def test_families_and_processed_weights_that_no_test_compared() -> None:
    model = as_bridge(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="not a GPT2LMHeadModel"), clamp(tiny_model("gpt2"), Ablate(layer=0, head=0)):
        pass
    vars(model)["_weights_processed"] = True
    with pytest.raises(ValueError, match="processed weights"), clamp(model, Ablate(layer=0, head=0)):
        pass


# Induction


def test_where_an_induction_head_should_look() -> None:
    found = earlier_occurrences(torch.tensor([[7, 8, 7, 9, 7, 7]]))[0]
    assert {(q, k) for q, k in found.nonzero().tolist()} == {(2, 1), (4, 1), (4, 3), (5, 1), (5, 3), (5, 5)}


@pytest.mark.parametrize("strength", [1.0, 0.7, 0.4])
def test_the_strength_of_a_clamped_head(strength: float) -> None:
    model = as_bridge(tiny_model("gpt2"))
    rows = repeated_rows(VOCAB, sequences=3, half=8)
    with clamp(model, Induction(layer=1, head=2, strength=strength)):
        found = induction_strength(model, rows, batch=2)
    assert found[1, 2].value == pytest.approx(2 * strength - 1, abs=1e-6)
    assert (len(found), found[1, 2].n) == (12, 3)
    assert found[0, 0].value < 0
    with pytest.raises(ValueError, match="no token occurs twice"):
        induction_strength(model, UNIQUE)


def test_specs() -> None:
    assert parse_rules("previous:0.2 + induction:2.1:0.7") == (
        Previous(layer=0, head=2),
        Induction(layer=2, head=1, strength=0.7),
    )
    assert parse_rules("temperature:1.0:0.5") == (Temperature(layer=1, head=0, temperature=0.5),)
    for wrong in ("", "ablate", "ablate:1", "ablate:1.2:3", "temperature:1.2", "previous:a.b", "perfect:0.1"):
        with pytest.raises(ValueError, match="is no clamp; write ablate, previous"):
            parse_rules(wrong)
    for sequences, half, vocab in ((0, 5, 9), (1, 1, 9), (1, 5, 1)):
        with pytest.raises(ValueError, match="at least 1, 2 and 2"):
            repeated_rows(vocab, sequences=sequences, half=half)


def test_progress_through_training() -> None:
    """Perfect attention of head 2.1 lowers the loss before the head has it, and hardly changes it afterwards."""
    losses = {}
    for step in (2048, 2896, 5792):
        model = load_model("embedded", revision=f"step{step}")
        found = clamped_losses(model, repeated_rows(4000, sequences=6), {"2.1": parse_rules("induction:2.1")})
        loss, change = found["2.1"]
        assert loss.value - found["none"][0].value == pytest.approx(change.value, abs=1e-4)
        losses[step] = change
    for step in (2048, 2896):
        assert losses[step].value < -0.5
        assert losses[step].value + 5 * losses[step].standard_error < 0
    assert abs(losses[5792].value) < 0.1
    quantities = measurement(["ablate:2.1"]).run(load_model("embedded"), repeated_rows(4000, sequences=2))
    assert quantities["loss"].labels == ("none", "ablate:2.1")
    assert quantities["change"].values[0] > 1  # type: ignore[operator]
    assert len(quantities["induction_strength"].labels) == 12
    with pytest.raises(ValueError, match="nothing to predict"):
        clamped_losses(model, UNIQUE, {})
