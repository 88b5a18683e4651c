"""Exact patching against the bridge's own hooks, one cell at a time; estimates against finite differences."""

import time

import pytest
import torch

import circuits
from circuits import Task
from circuits.anatomy.nodes import family_info, node_hooks
from circuits.runs.pair import contrast, open_session
from tests.circuits.pairs import ALL_FAMILIES, DIFFERS_AT, LENGTH, bridge_of, model_of, random_task
from tests.tiny_models import HEADS, LAYERS

HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "z": "blocks.{}.attn.hook_z",
    "q": "blocks.{}.attn.hook_q",
    "k": "blocks.{}.attn.hook_k",
    "v": "blocks.{}.attn.hook_v",
}


def one_at_a_time(bridge, task: Task, family: str, *, by_position: bool = True) -> torch.Tensor:
    """The same by TransformerLens's hooks: every cell its own forward pass, the metric written out by hand."""
    rows = torch.arange(len(task))

    def difference(logits: torch.Tensor) -> float:
        last = logits[:, -1].double()
        return float((last[rows, task.correct[:, 0]] - last[rows, task.wrong[:, 0]]).mean())

    with torch.no_grad():
        source, kept = bridge.run_with_cache(task.source)
        _, own = bridge.run_with_cache(task.base)
        base = difference(bridge(task.base))
        clean, corrupt = (difference(source), base) if task.direction == "denoise" else (base, difference(source))
        layers = []
        for layer in range(LAYERS):
            name = HOOKS[family].format(layer)
            value_there = kept[name]
            if family == "resid_mid":
                # The bridge's hook of that name edits what the MLP's norm reads and not the stream itself. What makes
                # the stream another is another output of attention.
                value_there = kept[name] - own[HOOKS["resid_pre"].format(layer)]
                name = HOOKS["attn_out"].format(layer)
            shape = kept[name].shape[1:-1] if by_position else kept[name].shape[2:-1]
            effects = torch.zeros(shape, dtype=torch.float64)
            for cell in [tuple(c) for c in torch.ones(shape).nonzero().tolist()] or [()]:
                index = (slice(None), *cell) if by_position else (slice(None), slice(None), *cell)

                def hook(value, hook, index=index, there=value_there):
                    value = value.clone()
                    value[index] = there[index]
                    return value

                patched = difference(bridge.run_with_hooks(task.base, fwd_hooks=[(name, hook)]))
                effects[cell] = (patched - base) / (clean - corrupt)
            layers.append(effects)
    return torch.stack(layers)


@pytest.mark.parametrize(
    ("family", "direction"), [*((f, "denoise") for f in ALL_FAMILIES if f != "qwen2"), ("llama", "noise")]
)
def test_patching_is_what_hooks_do_one_cell_at_a_time(family: str, direction: str) -> None:
    bridge = bridge_of(model_of(family))
    task = random_task(direction=direction)
    names = [name for name in HOOKS if not (name == "resid_mid" and family == "gpt_neox")]
    found = circuits.attribute(bridge, task, nodes=names, method="patching")
    for name in names:
        torch.testing.assert_close(found[name].values, one_at_a_time(bridge, task, name), rtol=1e-3, atol=2e-4)
        assert found[name].direction == direction


def test_positions_together_are_one_patch() -> None:
    bridge, task = bridge_of(model_of("llama")), random_task()
    for name in ("attn_out", "z"):
        found = circuits.attribute(bridge, task, nodes=name, method="patching", by_position=False)
        torch.testing.assert_close(
            found.values, one_at_a_time(bridge, task, name, by_position=False), rtol=1e-3, atol=2e-4
        )


def test_first_residual_carries_everything() -> None:
    """Patching the embedding of the only token that differs turns one run into the other."""
    scores = circuits.attribute(model_of("gpt2"), random_task(), nodes="resid_pre", method="patching")
    assert scores.values[0, DIFFERS_AT] == pytest.approx(1, abs=1e-5)
    assert torch.count_nonzero(scores.values[:, :DIFFERS_AT]) == 0


def test_shapes_nodes_and_what_a_result_says() -> None:
    scores = circuits.attribute(model_of("llama"), random_task(n=3), nodes="heads", method="relp", rules="no_ah")
    assert scores.values.shape == (LAYERS, LENGTH, HEADS)
    assert scores.per_prompt.shape == (3, LAYERS, LENGTH, HEADS)
    assert scores.axes == ("layer", "position", "head")
    node = scores.nodes[(1 * LENGTH + 4) * HEADS + 2]
    assert (node.family, node.layer, node.position, node.index) == ("z", 1, 4, 2)
    assert str(node) == "z.1[2]@4"
    assert scores.rules == ("half", "identity", "ln")
    best, value = scores.top(1)[0]
    assert value == scores.values[best.layer, best.position, best.index]
    torch.testing.assert_close(scores.standard_error, scores.per_prompt.std(0) / 3**0.5)


@pytest.mark.parametrize("name", ["embed", "resid_pre", "resid_mid", "z", "q", "k", "v", "mlp_post", "mlp_out"])
def test_atp_is_the_derivative_of_patching(name: str) -> None:
    """Central differences, in the one family whose float64 is float64 throughout."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task()
    scores = circuits.attribute(model, task, nodes=name, method="atp", by_position=False)
    session = open_session(model, task)
    layers = node_hooks(session.anatomy, name)
    found = contrast(session, layers)
    step = 1e-4
    for layer, hooks in enumerate(layers):
        whole = found.difference(hooks)
        flat = scores.values[layer].flatten()
        units = whole.shape[2:] if family_info(name).entries else whole.shape[2:-1]
        for unit in range(min(len(flat), 3)):
            delta = torch.zeros_like(whole)
            if units:
                delta[:, :, unit] = whole[:, :, unit]
            else:
                delta = whole
            high, low = (
                found.measure(session.runner.forward(task.base, add={hooks.change: sign * step * delta}).logits).mean()
                for sign in (1, -1)
            )
            assert float(high - low) / (2 * step) == pytest.approx(float(flat[unit]), rel=2e-4, abs=1e-7)


def test_integrated_gradients_sum_to_the_exact_effect() -> None:
    """Of one node at all positions, IG is exact but for the Riemann sum, whose error falls as 1 / steps."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task()
    exact = circuits.attribute(model, task, nodes="mlp_out", method="patching", by_position=False).values
    gaps = []
    for steps in (10, 20, 40):
        found = circuits.attribute(model, task, nodes="mlp_out", method="ig", by_position=False, steps=steps).values
        gaps.append((found - exact).abs().max())
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.3)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.3)
    one = circuits.attribute(model, task, nodes="mlp_out", method="ig", by_position=False, steps=1).values
    atp = circuits.attribute(model, task, nodes="mlp_out", method="atp", by_position=False).values
    torch.testing.assert_close(one, atp, rtol=1e-9, atol=1e-12)


def test_costs() -> None:
    model, task = model_of("llama"), random_task()
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    for method in ("atp", "relp"):
        calls.clear()
        cost = circuits.attribute(model, task, nodes=["resid_pre", "z", "mlp_post"], method=method)["z"].cost
        assert (cost.forwards, cost.backwards, len(calls)) == (2, 1, 2)
    handle.remove()
    live = LENGTH - DIFFERS_AT
    cost = circuits.attribute(model, task, nodes="mlp_out", method="patching").cost
    assert (cost.forwards, cost.backwards) == (2 + LAYERS * live, 0)
    cost = circuits.attribute(model, task, nodes="mlp_out", method="ig", steps=4).cost
    assert (cost.forwards, cost.backwards) == (2 + LAYERS * 4, LAYERS * 4)
    cost = circuits.attribute(model, task, nodes=["q", "k"], method="atp*")["k"].cost
    assert (cost.forwards, cost.backwards, cost.attention_layers) == (2, LAYERS, LAYERS + 1 + (LAYERS - 1) * live)


def test_batched_patching_is_at_least_five_times_faster_than_one_cell_at_a_time() -> None:
    bridge, task = bridge_of(model_of("gpt2")), random_task()
    circuits.attribute(bridge, task, nodes="attn_out", method="patching")  # what is loaded once
    begin = time.process_time()
    circuits.attribute(bridge, task, nodes=["z", "q", "k", "v"], method="patching")
    ours = time.process_time() - begin
    begin = time.process_time()
    for name in ("z", "q", "k", "v"):
        one_at_a_time(bridge, task, name)
    assert time.process_time() - begin > 5 * ours


def test_the_model_is_left_as_it_was() -> None:
    model, task = model_of("gemma3"), random_task()
    before = model(task.clean).logits
    for method in ("patching", "atp", "relp", "ig"):
        circuits.attribute(model, task, nodes=["z", "resid_post"], method=method)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    assert torch.equal(model(task.clean).logits, before)


def test_mistakes_are_named() -> None:
    model, task = model_of("gpt_neox"), random_task()
    with pytest.raises(ValueError, match=r"no relevance under the AH rule.*no_ah"):
        circuits.attribute(model, task, nodes="q", method="relp", rules="paper")
    with pytest.raises(ValueError, match="no resid_mid"):
        circuits.attribute(model, task, nodes="resid_mid", method="atp")
    with pytest.raises(ValueError, match="nodes 'heads_out' are not known"):
        circuits.attribute(model, task, nodes="heads_out", method="atp")
    with pytest.raises(ValueError, match="method 'guess'"):
        circuits.attribute(model, task, nodes="z", method="guess")
    with pytest.raises(ValueError, match="'atp' has none"):
        circuits.attribute(model, task, nodes="z", method="atp", rules="paper")
    with pytest.raises(ValueError, match="vocabulary ends at 63"):
        circuits.attribute(model, task.replace(correct=[500, 500]), nodes="z", method="atp")
    with pytest.raises(ValueError, match=r"model\.eval"):
        circuits.attribute(model_of("gpt2").train(), task, nodes="z", method="atp")
    bridge = bridge_of(model_of("gpt2"))
    bridge.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value * 0)
    with pytest.raises(ValueError, match=r"reset_hooks"):
        circuits.attribute(bridge, task, nodes="z", method="atp")
    same = task.replace(metric=lambda logits, task: logits[:, 0] * 0)
    with pytest.raises(ValueError, match="nothing to explain"):
        circuits.attribute(model, same, nodes="z", method="atp")


def test_half_precision_and_every_kind_of_model_object() -> None:
    """A bridge of any family, its plain modules, and bfloat16, in which scores are coarser and not wrong."""
    task, names = random_task(), ["resid_pre", "attn_out", "mlp_out"]
    plain = circuits.attribute(model_of("qwen2"), task, nodes=names, method="relp")
    bridged = circuits.attribute(bridge_of(model_of("qwen2")), task, nodes=names, method="relp")
    half = circuits.attribute(model_of("qwen2", dtype=torch.bfloat16), task, nodes=names, method="relp")
    for name in names:
        torch.testing.assert_close(bridged[name].values, plain[name].values, rtol=1e-3, atol=1e-4)
        assert torch.corrcoef(torch.stack([half[name].values.flatten(), plain[name].values.flatten()]))[0, 1] > 0.97


def test_processed_weights_are_refused() -> None:
    bridge = bridge_of(model_of("gpt2"))
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="cannot trace circuits on a model with processed weights"):
        circuits.attribute(bridge, random_task(), nodes="z", method="atp")


def test_no_rules_are_plain_gradients() -> None:
    model, task = model_of("llama"), random_task()
    plain = circuits.attribute(model, task, nodes="q", method="atp").values
    assert torch.equal(circuits.attribute(model, task, nodes="q", method="relp", rules=[]).values, plain)
