"""Planted concepts that are used, or only there; random ones; rotated copies of one space."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from interp.commands.dynamics.concept import app
from interp.concepts import across_layers, cav, fused, last_states, target_gradients, tcav
from interp.sites.capturing import capture
from tests.tiny_models import CONFIGS, FAMILIES, LAYERS, VOCAB, as_bridge, tiny_model

D = 24


def draw(n: int, seed: int) -> Tensor:
    """Activations with very different scales."""
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-1, 1, D)


def test_a_planted_direction_is_found_whatever_the_other_dimensions_scales() -> None:
    u = functional.normalize(torch.eye(D)[3] + torch.eye(D)[4], dim=0)
    found = cav(draw(80, 0) + 3 * u, draw(160, 1))
    assert found.accuracy.value > 0.9
    assert found.accuracy.n == 240
    assert float(found.vector.norm()) == pytest.approx(1, abs=1e-6)
    assert float(found.vector @ u) > 0.7
    nothing = cav(draw(80, 2), draw(80, 3))
    assert abs(nothing.accuracy.value - 0.5) < 4 * nothing.accuracy.standard_error
    constant = torch.cat([draw(40, 0)[:, :3] + 2, torch.full((40, 1), 7.0)], 1)
    assert cav(constant, torch.cat([draw(40, 1)[:, :3], torch.full((40, 1), 7.0)], 1)).vector[3] == 0


def wide(n: int, seed: int) -> Tensor:
    return torch.randn(n, 200, generator=torch.Generator().manual_seed(seed))


def test_a_concept_that_is_used_and_one_that_is_only_there() -> None:
    u, ignored = torch.eye(200)[5], torch.eye(200)[6]
    pool = {layer: wide(120, 10 + layer) for layer in range(2)}
    used = across_layers(
        {layer: wide(60, 20 + layer) + 8 * u for layer in range(2)},
        pool,
        {layer: 3 * u + 0.2 * wide(40, layer) for layer in range(2)},
    )
    for each in used.layers:
        assert each.tcav.value >= 0.95
        assert each.p_value < 0.01
        assert each.concept.accuracy.value > 0.9
    assert (used.sets, used.layers[1].tcav.n) == (20, 20)
    assert used.variation < 0.1
    assert used.range_ratio < 0.1
    noise = {layer: wide(40, 40 + layer) for layer in range(2)}
    noise = {layer: g - (g @ ignored)[:, None] * ignored for layer, g in noise.items()}
    there = across_layers({layer: wide(60, 30 + layer) + 20 * ignored for layer in range(2)}, pool, noise)
    for each in there.layers:
        assert each.concept.accuracy.value > 0.95
        assert 0.3 < each.tcav.value < 0.7
        assert each.p_value > 0.05


def random_concept(seed: int) -> float:
    """Its p-value where all gradients agree, so that every share is 0 or 1."""
    gradients = {0: torch.ones(5, D) + 0.01 * torch.randn(5, D, generator=torch.Generator().manual_seed(0))}
    return across_layers({0: draw(30, 100 + seed)}, {0: draw(80, 300 + seed)}, gradients, seed=seed).layers[0].p_value


@pytest.mark.slow
def test_random_concepts_are_not_significant() -> None:
    assert sum(random_concept(seed) > 0.05 for seed in range(20)) >= 18


def test_a_few_random_concepts_are_not_significant() -> None:
    assert sum(random_concept(seed) > 0.05 for seed in range(20, 23)) >= 2


def test_tcav_in_closed_form() -> None:
    gradients = torch.tensor([[1.0, 5.0], [2.0, -1.0], [-1.0, 0.0], [3.0, 3.0]])
    found = tcav(gradients, torch.tensor([1.0, 0.0]))
    assert (found.value, found.n) == (0.75, 4)
    assert tcav(gradients, torch.tensor([-1.0, 0.0])).value == 0.25


def test_rotated_copies_are_fused_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200, D, generator=generator)
    u = functional.normalize(torch.randn(D, generator=generator), dim=0)
    rotations = [torch.linalg.qr(torch.randn(D, D, generator=generator))[0] for _ in range(3)]
    found = fused({i: u @ r for i, r in enumerate(rotations)}, {i: base @ r + i for i, r in enumerate(rotations)})
    assert found.reference == 1
    assert list(found.cosine.values()) == pytest.approx([1.0] * 3, abs=1e-6)
    assert torch.allclose(found.vector, u @ rotations[1], atol=1e-5)
    other = {i: torch.randn(D, generator=generator) for i in range(3)}
    assert max(fused(other, {i: base for i in range(3)}).cosine.values()) < 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_gradients_of_prompts(family: str) -> None:
    hf_model = tiny_model(family)
    prompts = [[1, 2, 3], [4, 5, 6, 7]]
    model = as_bridge(hf_model)
    states, gradients = last_states(model, prompts), target_gradients(model, prompts, 9)
    blocks = hf_model.get_submodule(
        {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(family, "model.layers")
    )
    for i, prompt in enumerate(prompts):
        outputs: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, output: Any, outputs: list[Tensor] = outputs) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)

        hooks = [block.register_forward_hook(keep) for block in blocks]
        logit = hf_model(torch.tensor([prompt])).logits[0, -1, 9]
        expected = torch.autograd.grad(logit, outputs)
        for hook in hooks:
            hook.remove()
        for layer in range(LAYERS):
            assert torch.allclose(states[layer][i], outputs[layer][0, -1], atol=1e-4)
            assert torch.allclose(gradients[layer][i], expected[layer][0, -1], rtol=1e-3, atol=1e-4)
    assert list(last_states(model, prompts, layers=[1])) == [1]
    with torch.no_grad():
        again = target_gradients(model, prompts, 9, layers=[2])[2]
    assert torch.allclose(again, gradients[2])
    assert capture(model, [[1, 2]], "blocks.0.hook_resid_post")
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_concept_planted_in_a_model() -> None:
    """Tokens 32 and above carry u in their embedding, and the head reads it for token 9."""
    config = copy.deepcopy(CONFIGS["gpt_neox"])
    config.hidden_size = 128
    torch.manual_seed(0)
    hf_model = AutoModelForCausalLM.from_config(config).eval()
    u = functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(3)), dim=0)
    u = functional.normalize(u - u.mean(), dim=0)
    with torch.no_grad():
        embedding = hf_model.gpt_neox.embed_in.weight
        embedding.normal_()
        embedding[32:] += 6 * u
        hf_model.gpt_neox.final_layer_norm.weight.fill_(1)
        hf_model.lm_head.weight[9] = u
        for layer in hf_model.gpt_neox.layers:
            layer.attention.dense.weight *= 0.1
            layer.mlp.dense_4h_to_h.weight *= 0.1
    model = as_bridge(hf_model)
    generator = torch.Generator().manual_seed(0)
    concept = torch.cat(
        [torch.randint(1, VOCAB, (30, 3), generator=generator), torch.randint(32, VOCAB, (30, 1), generator=generator)],
        1,
    )
    pool = torch.cat(
        [torch.randint(1, VOCAB, (60, 3), generator=generator), torch.randint(1, 32, (60, 1), generator=generator)], 1
    )
    found = across_layers(
        last_states(model, concept.tolist()),
        last_states(model, pool.tolist()),
        target_gradients(model, pool.tolist(), 9),
    )
    for each in found.layers:
        assert each.tcav.value >= 0.95
        assert each.p_value < 0.01
        assert float(each.concept.vector @ u) > 0.3


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, others = tmp_path / "names.txt", tmp_path / "others.txt"
    names.write_text("\n".join(f"I saw {name}" for name in "Emma Harriet Jane Frank Mary John Tom Anna".split()))
    others.write_text(
        "\n".join(f"I saw {word}" for word in "the a it them that this some one all what no more".split())
    )
    line = ["embedded", "--positive", str(names), "--negative", str(others), "--html", str(tmp_path / "page.html")]
    options = {"print_error": False, "exit_on_error": False, "result_action": "return_value"}
    app([*line, "--target", " and"], **options)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Over layers TCAV" in shown
    assert "of ' and' go" in shown, "the finding names the target"
    page = (tmp_path / "page.html").read_text()
    assert "held-out accuracy" in page
    assert "testing with concept activation vectors" in page
    with pytest.raises(ValueError, match="tokens; give one"):
        app([*line, "--target", " and then"], **options)
    with pytest.raises(ValueError, match="come by luck"):  # before a model is read
        app(["nowhere", *line[1:], "--target", " and", "--sets", "9"], **options)
    others.write_text("\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        app([*line, "--target", " and"], **options)


def test_nonsense_is_refused() -> None:
    x = draw(20, 0)
    with pytest.raises(ValueError, match="5 or more on each"):
        cav(x[:4], x)
    with pytest.raises(ValueError, match="of one width"):
        cav(x, x[:, :3])
    with pytest.raises(ValueError, match="not finite"):
        cav(x / 0, x)
    with pytest.raises(ValueError, match="of the vector's width"):
        tcav(x, x[0, :3])
    with pytest.raises(ValueError, match="come by luck"):
        across_layers({0: x}, {0: x}, {0: x}, sets=10)
    with pytest.raises(ValueError, match="give the same to all"):
        across_layers({0: x}, {1: x}, {0: x})
    with pytest.raises(ValueError, match="give the same layers"):
        fused({0: x[0]}, {0: x}, reference=2)
    with pytest.raises(ValueError, match="differ in shape"):
        fused({0: x[0], 1: x[0]}, {0: x, 1: x[:3]})
    model = as_bridge(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="none of them empty"):
        last_states(model, [[1], []])
    with pytest.raises(ValueError, match="0 to 2"):
        last_states(model, [[1]], layers=[3])
    with pytest.raises(ValueError, match="tokens 0 to 63"):
        target_gradients(model, [[1]], 64)
    assert math.isnan(across_layers({0: x}, {0: draw(40, 1)}, {0: x}).deviation)
