"""Monitors of one model against planted logits, the formulas written out, and the original model's gradients."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import monitors
from interp.models.families import COMPARED_IN_ALL
from interp.models.loading import load_model
from interp.monitors import measure, measurement
from interp.sites.capturing import capture
from tests.tiny_models import CONFIGS, FAMILIES, HEADS, VOCAB, WIDTH, as_bridge, tiny_model

TOKENS = torch.randint(1, VOCAB, (3, 16), generator=torch.Generator().manual_seed(2))


def allowed(scores: Tensor) -> Tensor:
    length = scores.shape[-1]
    return torch.ones(length, length, dtype=torch.bool).tril() & (scores > -1e30)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_entropy_and_sizes_are_those_of_the_sites(family: str) -> None:
    model = as_bridge(tiny_model(family))
    found = measure(model, TOKENS, batch=2)
    for layer, peak in enumerate(found.peaks):
        names = [f"blocks.{layer}.attn.hook_attn_scores", f"blocks.{layer}.attn.hook_pattern"]
        scores, pattern = (capture(model, TOKENS, names)[name] for name in names)
        visible = scores.masked_fill(~allowed(scores), -torch.inf)
        assert peak.value == pytest.approx(float(visible.max()), rel=1e-6)
        assert float(scores[peak.sequence, peak.head, peak.query, peak.key]) == pytest.approx(peak.value, rel=1e-6)
        assert torch.allclose(found.largest[layer], visible.amax((2, 3)).double())
        entropy = -torch.special.xlogy(pattern, pattern).sum(-1).mean(-1)
        assert torch.allclose(found.entropy[layer], entropy.double(), atol=1e-5)
        post = capture(model, TOKENS, f"blocks.{layer}.hook_resid_post")[f"blocks.{layer}.hook_resid_post"]
        assert found.rms("resid_post")[layer].value == pytest.approx(float(post.square().mean().sqrt()), rel=1e-5)
    assert ("resid_mid" in found.mean_squares) == (family != "gpt_neox")
    assert found.softcap == (50.0 if family == "gemma2" else None)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_gradients_and_log_z_are_those_of_the_original_model(family: str) -> None:
    reference = tiny_model(family)
    logits = reference(TOKENS).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
    loss.backward()
    model = as_bridge(tiny_model(family))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = measure(model, TOKENS, batch=2)
    assert found.gradients is not None
    expected = {name: float(p.grad.square().mean().sqrt()) for name, p in reference.named_parameters()}
    assert {name: rms for name, (rms, _) in found.gradients.items()} == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert torch.allclose(found.log_z, logits.logsumexp(-1), rtol=1e-5)
    assert found.loss.value == pytest.approx(loss.item(), rel=1e-5)
    assert found.z_loss.value == pytest.approx(float((1e-4 * logits.logsumexp(-1) ** 2).mean()), rel=1e-5)
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not module._forward_hooks or "capture" not in str(module._forward_hooks) for module in model.modules())
    total = math.sqrt(sum(rms**2 * n for rms, n in found.gradients.values()))
    squares = {"0": 0.0, "1": 0.0, "2": 0.0, "other": 0.0}
    for name, (rms, n) in found.gradients.items():
        digits = [part for part in name.split(".") if part.isdigit()]
        squares[digits[0] if digits else "other"] += rms**2 * n
    assert math.sqrt(sum(squares.values())) == pytest.approx(total)
    assert found.gradient_rms().keys() == squares.keys()


def test_a_planted_logit_is_found_with_its_place() -> None:
    """Queries and keys of layer 1, head 2 are made from what enters: 50 at one pair, 0 at all others."""
    head, query, key, row = 2, 11, 4, TOKENS[:1]
    hf_model = tiny_model("gpt2")
    entering: list[Tensor] = []
    hook = hf_model.transformer.h[1].ln_1.register_forward_hook(lambda _m, _a, out: entering.append(out[0].detach()))
    hf_model(row)
    hook.remove()
    d_head = WIDTH // HEADS

    def only(position: int) -> Tensor:
        wanted = torch.zeros(row.shape[1], dtype=torch.float64)
        wanted[position] = 1
        return (torch.linalg.pinv(entering[0].double()) @ wanted).float()

    with torch.no_grad():
        attention = hf_model.transformer.h[1].attn.c_attn
        attention.weight[:, : 2 * WIDTH] = 0
        attention.bias[: 2 * WIDTH] = 0
        attention.weight[:, head * d_head] = only(query) * 50 * math.sqrt(d_head)
        attention.weight[:, WIDTH + head * d_head] = only(key)
    found = measure(as_bridge(hf_model), row, backward=False)
    peak = found.peaks[1]
    assert peak.value == pytest.approx(50, abs=1e-4)
    assert (peak.sequence, peak.head, peak.query, peak.key) == (0, head, query, key)
    assert found.largest[1, 0, [0, 1, 3]].abs().max() == 0


def test_of_even_attention_the_entropy_is_that_of_its_keys() -> None:
    hf_model = tiny_model("gpt2")
    with torch.no_grad():
        for block in hf_model.transformer.h:
            block.attn.c_attn.weight[:, : 2 * WIDTH] = 0
            block.attn.c_attn.bias[: 2 * WIDTH] = 0
    found = measure(as_bridge(hf_model), TOKENS, backward=False)
    expected = sum(math.log(i + 1) for i in range(16)) / 16
    assert torch.allclose(found.entropy, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_random_logits_have_a_gaussian_maximum() -> None:
    model = as_bridge(tiny_model("gpt2", seed=3))
    tokens = torch.randint(1, VOCAB, (8, 32), generator=torch.Generator().manual_seed(0))
    scores = capture(model, tokens, "blocks.0.attn.hook_attn_scores")["blocks.0.attn.hook_attn_scores"]
    inside = scores.masked_select(allowed(scores))
    expected = float(inside.mean() + inside.std() * math.sqrt(2 * math.log(len(inside))))
    assert 0.6 * expected < measure(model, tokens, backward=False).peaks[0].value < 1.6 * expected


def test_norms_of_queries_and_keys_bound_the_logit() -> None:
    """Gemma 3: |q·k| <= d_head times the largest gain of each norm, scaled, however large the projections are."""
    hf_model = tiny_model("gemma3")
    with torch.no_grad():
        for layer in hf_model.model.layers:
            layer.self_attn.q_proj.weight *= 1000
    found = measure(as_bridge(hf_model), TOKENS, backward=False)
    for layer, peak in zip(hf_model.model.layers, found.peaks, strict=True):
        attention = layer.self_attn
        gains = [float((1 + norm.weight).abs().max()) for norm in (attention.q_norm, attention.k_norm)]
        assert 0 < peak.value <= 8 * gains[0] * gains[1] * 8**-0.5


def test_the_logit_before_the_soft_cap_is_that_of_a_model_without_one() -> None:
    model = as_bridge(tiny_model("gemma2"))
    found = measure(model, TOKENS, backward=False)
    free = tiny_model("gemma2")
    free.config.attn_logit_softcapping = None
    for layer in free.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    without = measure(as_bridge(free), TOKENS, backward=False)
    assert found.uncapped[0] == pytest.approx(without.peaks[0].value, rel=1e-4)
    assert found.peaks[0].value < found.uncapped[0]
    assert found.quantities()["max_attention_logit_uncapped"].values[0] == pytest.approx(found.uncapped[0])


def test_log_z_of_equal_logits() -> None:
    hf_model = tiny_model("gpt_neox")
    with torch.no_grad():
        hf_model.gpt_neox.final_layer_norm.weight.zero_()
        hf_model.gpt_neox.final_layer_norm.bias.copy_(torch.eye(WIDTH)[0])
        hf_model.lm_head.weight[:, 0] = 3.5
    model = as_bridge(hf_model)
    model.tokenizer = range(60)
    found = measure(model, TOKENS, backward=False)
    assert torch.allclose(found.log_z, torch.tensor(math.log(VOCAB) + 3.5), atol=1e-5)
    assert found.log_z_tokens is not None
    assert torch.allclose(found.log_z_tokens, torch.tensor(math.log(60) + 3.5), atol=1e-5)


def test_at_the_start_log_z_is_log_v_plus_half_the_variance() -> None:
    model = load_model("embedded", revision="step0")
    tokens = torch.randint(1, 4000, (2, 32), generator=torch.Generator().manual_seed(0))
    found = measure(model, tokens, backward=False)
    variance = float(model(tokens).detach().var(-1).mean())
    assert float(found.log_z.mean()) == pytest.approx(math.log(4000) + variance / 2, abs=0.02)


def test_curves_over_training(tmp_path: Path) -> None:
    from interp.checkpoints import sweep, training_page

    tokens = torch.randint(1, 4000, (2, 32), generator=torch.Generator().manual_seed(0))
    run = sweep("embedded", tokens, [measurement()], tmp_path, steps="0,1,5792")
    curves = run.curves["monitors"]
    assert {"max_attention_logit", "attention_entropy", "log_z", "gradient_rms", "rms_resid_post"} <= set(curves.names)
    logits = curves.series("max_attention_logit")[1]
    assert (logits[:, 2] > 2 * logits[:, 0]).all()
    page = training_page("Monitors", [curves]).write(tmp_path / "page.html")
    assert "Largest attention logit" in page.read_text()


def test_what_cannot_be_measured_is_refused() -> None:
    model = as_bridge(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="two positions or more"):
        measure(model, TOKENS[:, :1])
    with pytest.raises(ValueError, match="not a GPT2LMHeadModel"):
        measure(tiny_model("gpt2"), TOKENS)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        measure(model, TOKENS)
    with pytest.raises(ValueError, match="pass backward=True"):
        measure(model, TOKENS, backward=False).gradient_rms()
    model.train()
    with pytest.raises(ValueError, match=r"model\.eval"):
        measure(model, TOKENS)
    model.eval()
    model.original_model.config.model_type = "unheard"
    with pytest.raises(ValueError, match="not in 'unheard'"):
        measure(model, TOKENS)
    vars(model)["_weights_processed"] = True
    with pytest.raises(ValueError, match="processed weights"):
        measure(model, TOKENS)


def test_adam_updates() -> None:
    """After one step m̂ = g and v̂ = g², so that the update is g / (|g| + ε)."""
    parameter = torch.nn.Parameter(torch.zeros(4))
    gradient = torch.tensor([1e-8, -1e-8, 1.0, -2.0])
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    with pytest.raises(ValueError, match="take a step first"):
        monitors.adam_update_rms(optimizer, [("w", parameter)])
    parameter.grad = gradient
    optimizer.step()
    expected = float((gradient / (gradient.abs() + 1e-8)).square().mean().sqrt())
    assert monitors.adam_update_rms(optimizer, [("w", parameter)]) == {"w": pytest.approx(expected, rel=1e-5)}
    assert monitors.shrinkage(1e-8) == 0.5
    for wrong in ((-1.0, 1e-8), (0.0, 0.0)):
        with pytest.raises(ValueError, match="must be 0 or more"):
            monitors.shrinkage(wrong[0], eps=wrong[1])
    sgd: Any = torch.optim.SGD([parameter], lr=1.0)
    with pytest.raises(ValueError, match="SGD"):
        monitors.adam_update_rms(sgd, [("w", parameter)])
    grads: Any = torch.optim.Adam([parameter], amsgrad=True)
    grads.step()
    with pytest.raises(ValueError, match="amsgrad"):
        monitors.adam_update_rms(grads, [("w", parameter)])


def test_families_are_those_tested() -> None:
    assert {CONFIGS[name].model_type for name in FAMILIES} == set(COMPARED_IN_ALL)
