"""Relevance rules: an exact replica with everything frozen, conservation, finite algebra, and what must be refused."""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

import circuits
from circuits.anatomy.anatomy import anatomy_of
from circuits.anatomy.nodes import node_hooks
from circuits.rules import PRESETS, relevance, rule_set
from circuits.runs.runner import Runner
from tests.circuits.pairs import ALL_FAMILIES, VOCAB, bridge_of, model_of, random_task
from tests.tiny_models import LAYERS

GATED = ("llama", "qwen2", "gemma2", "gemma3")


def logit_difference(logits: Tensor) -> Tensor:
    return (logits[:, -1, 3] - logits[:, -1, 11]).double().sum()


def coefficients(model, tokens: Tensor, rules) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The logit difference, and value and gradient at the input of every block and of the final norm, by plain hooks
    and autograd: nothing of ours but the rules."""
    anatomy = anatomy_of(model)
    seen: list[Tensor] = []

    def keep(_module, args, kwargs):
        value = args[0] if args else kwargs["hidden_states"]
        value = value if value.requires_grad else value.requires_grad_()
        seen.append(value)

    with ExitStack() as stack:
        for module in (*(block.whole for block in anatomy.blocks), anatomy.final_norm):
            stack.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        stack.enter_context(relevance(model, rules=rules))
        logits = model(tokens)
        y = logit_difference(logits if isinstance(logits, Tensor) else logits.logits)
        gradients = torch.autograd.grad(y, seen)
    return y.detach(), [(v.detach().double(), g.double()) for v, g in zip(seen, gradients, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_forward_is_the_same_to_the_bit(family: str, dtype: torch.dtype) -> None:
    model, tokens = model_of(family, dtype=dtype), random_task().clean
    plain = model(tokens).logits
    for rules in PRESETS:
        with relevance(model, rules=rules):
            assert torch.equal(model(tokens).logits, plain)
    bridge = bridge_of(model_of(family, dtype=dtype))
    plain = bridge(tokens)
    with relevance(bridge, rules="paper"):
        assert torch.equal(bridge(tokens), plain)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_nothing_remains_after_the_block(family: str) -> None:
    model, tokens = model_of(family), random_task().clean
    before = coefficients(model, tokens, "none")[1]
    with pytest.raises(KeyError), relevance(model, rules="paper"):
        raise KeyError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for (_, a), (_, b) in zip(before, coefficients(model, tokens, "none")[1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_relevance_is_conserved_at_every_layer(family: str) -> None:
    """Without biases, the relevance of each layer's residual stream is the logit difference; take any rule away, and it
    is not."""
    model, tokens = model_of(family, dtype=torch.float64, biases=False), random_task().clean
    y, layers = coefficients(model, tokens, "paper")
    # Norms and rotary embeddings of Hugging Face compute in float32 also in a float64 model.
    tolerance = 1e-10 if family == "gpt2" else 1e-6
    for value, gradient in layers:
        assert float((value * gradient).sum()) == pytest.approx(float(y), abs=tolerance)
    for missing in PRESETS["paper"] - (frozenset() if family in GATED else {"half"}):
        _, layers = coefficients(model, tokens, PRESETS["paper"] - {missing})
        value, gradient = layers[0]
        assert abs(float((value * gradient).sum()) - float(y)) > 1e-3, missing


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_relevance_is_conserved_with_biases(family: str) -> None:
    """What biases absorb is their gradient times themselves."""
    model, tokens = model_of(family, dtype=torch.float64), random_task().clean
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    embedded: list[Tensor] = []
    handle = (
        anatomy_of(model)
        .blocks[0]
        .whole.register_forward_pre_hook(
            lambda _m, args, kwargs: embedded.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    )
    with relevance(model, rules="paper"):
        y = logit_difference(model(tokens).logits)
    handle.remove()
    gradients = torch.autograd.grad(y, [embedded[0], *biases], allow_unused=True)
    # GPT-2's queries, keys and values share a bias, of which AH leaves the values' part.
    total = sum(
        float((a.detach() * g).sum()) for a, g in zip([embedded[0], *biases], gradients, strict=True) if g is not None
    )
    assert total == pytest.approx(float(y), abs=1e-8 if family == "gpt2" else 1e-5)


def frozen_replica(model, tokens: Tensor) -> list:
    """Hooks that make the model affine around one run: norm scales, patterns, ``act(x) / x`` and the half-linearised
    product of gates are those of that run. Written from the rules' definition, with no use of ``circuits.rules``."""
    anatomy, handles = anatomy_of(model), []
    stored: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(module, args, output):
        stored[module] = (args[0].detach(), output.detach())

    watched = [*anatomy.norms, *(m for b in anatomy.blocks for m in (b.activation, b.up, b.q, b.k) if m is not None)]
    recorders = [m.register_forward_hook(record) for m in dict.fromkeys(watched)]
    with torch.no_grad():
        model(tokens)
    for handle in recorders:
        handle.remove()

    def norm(module, args, output):
        x0, y0 = stored[module]
        d = args[0] - x0
        if isinstance(module, nn.LayerNorm):
            d, c0 = d - d.mean(-1, keepdim=True), x0 - x0.mean(-1, keepdim=True)
            return y0 + d * module.weight / (c0.square().mean(-1, keepdim=True) + module.eps).sqrt()
        eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        weight = 1 + module.weight if "Gemma" in type(module).__name__ else module.weight
        return y0 + d * weight / (x0.square().mean(-1, keepdim=True) + eps).sqrt()

    now: dict[nn.Module, Tensor] = {}

    def activation(module, args, output):
        x0, y0 = stored[module]
        now[module] = args[0] * (y0 / x0)
        return now[module]

    for module in anatomy.norms:
        handles.append(module.register_forward_hook(norm))
    for block in anatomy.blocks:
        handles.append(block.activation.register_forward_hook(activation))
        if block.up is not None:
            handles.append(block.up.register_forward_hook(lambda m, _a, y: now.__setitem__(m, y)))

            def product(_module, args, block=block):
                a0, u0 = stored[block.activation][1], stored[block.up][1]
                a, u = now[block.activation], now[block.up]
                return (a0 * u0 + 0.5 * ((a - a0) * u0 + a0 * (u - u0)),)

            handles.append(block.down.register_forward_pre_hook(product))
        if block.q is not block.k:
            for projection in (block.q, block.k):
                handles.append(projection.register_forward_hook(lambda m, _a, _y: stored[m][1]))
        else:

            def patterns(module, _args, y):
                y0 = stored[module][1]
                if anatomy.family.fusion == "stacked":
                    return torch.cat([y0[..., : -y.shape[-1] // 3], y[..., -y.shape[-1] // 3 :]], -1)
                mixed = y0.unflatten(-1, (anatomy.heads, 3, -1)).clone()
                mixed[..., 2, :] = y.unflatten(-1, (anatomy.heads, 3, -1))[..., 2, :]
                return mixed.flatten(-3)

            handles.append(block.q.register_forward_hook(patterns))
    return handles


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_relp_is_exact_patching_of_a_frozen_replica(family: str, direction: str) -> None:
    """The decisive one: a missing rule, a wrong sign, a wrong run or a detached mean fails it."""
    model = model_of(family, dtype=torch.float64)
    if family.startswith("gemma"):
        model.config.final_logit_softcapping = None  # a tanh behind the last norm, for which there is no rule
    task = random_task(direction=direction)
    names = ["embed", "resid_pre", "z", "v", "attn_out", "mlp_post", "mlp_out"]
    scores = circuits.attribute(model, task, nodes=names, method="relp", rules="paper")
    anatomy = anatomy_of(model)
    by_name = {name: node_hooks(anatomy, name) for name in names}
    runner = Runner(anatomy, prompts=len(task))
    read = [hooks.value for layers in by_name.values() for hooks in layers]
    source, base = (runner.forward(tokens, read=read) for tokens in (task.source, task.base))
    handles = frozen_replica(model, task.base)
    measured = scores["z"].clean_metric - scores["z"].corrupt_metric

    def metric(logits: Tensor) -> float:
        rows = torch.arange(len(task))
        found = logits[rows, task.correct[:, 0]] - logits[rows, task.wrong[:, 0]]
        return float(found.mean()) / measured

    unpatched = metric(runner.forward(task.base).logits)
    worst = 0.0
    for name, layers in by_name.items():
        for layer, hooks in enumerate(layers):
            whole = source.value(hooks.value) - base.value(hooks.value)
            for position in range(3, task.length):
                delta = torch.zeros_like(whole)
                if name == "mlp_post":
                    delta[:, position, 5] = whole[:, position, 5]
                    expected = scores[name].values[layer, position, 5]
                elif whole.ndim == 4:
                    delta[:, position, 1] = whole[:, position, 1]
                    expected = scores[name].values[layer, position, 1]
                else:
                    delta[:, position] = whole[:, position]
                    expected = scores[name].values[layer, position]
                effect = metric(runner.forward(task.base, add={hooks.change: delta}).logits) - unpatched
                worst = max(worst, abs(effect - float(expected)))
    for handle in handles:
        handle.remove()
    assert worst < (1e-11 if family == "gpt2" else 2e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "gemma3"])
def test_a_bridge_and_its_plain_modules_agree(family: str) -> None:
    model, tokens = model_of(family), random_task().clean
    for rules in ("paper", "no_ah"):
        _, plain = coefficients(model, tokens, rules)
        _, ours = coefficients(bridge_of(model_of(family)), tokens, rules)
        for (_, a), (_, b) in zip(plain, ours, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_nnsight_trace_agrees() -> None:
    from nnsight import NNsight

    model, tokens = model_of("llama"), random_task().clean
    _, expected = coefficients(model, tokens, "paper")
    with relevance(model, rules="paper"):
        traced = NNsight(model)
        with traced.trace(tokens):
            hidden = traced.model.layers[1].input
            logits = traced.output.logits
            metric = (logits[:, -1, 3] - logits[:, -1, 11]).sum()
            with metric.backward():
                found = hidden.grad.save()
    torch.testing.assert_close(found.double(), expected[1][1], rtol=1e-4, atol=1e-6)


def test_algebra_of_one_gated_unit() -> None:
    """Half and Identity belong together: only both make the relevances of gate and input sum to the product."""
    model = model_of("llama", biases=False)
    gate, up = torch.tensor([[1.3]], requires_grad=True), torch.tensor([[-0.7]], requires_grad=True)
    expected = {(): -1.629, ("half",): -0.815, ("identity",): -1.430, ("identity", "half"): -0.7151}
    block = anatomy_of(model).blocks[0]
    linear_up = nn.Identity()
    model.model.layers[0].mlp.up_proj = linear_up
    for rules, total in expected.items():
        with relevance(model, rules=rules):
            product = block.activation(gate) * linear_up(up)
            gradients = torch.autograd.grad(product.sum(), [gate, up])
        assert float(gate * gradients[0] + up * gradients[1]) == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_neurons_get_what_their_output_weights_pass_back(family: str) -> None:
    """The Half rule acts before the neuron: scores on its wrong side would be half of this."""
    model, task = model_of(family, dtype=torch.float64), random_task()
    anatomy = anatomy_of(model)
    runner = Runner(anatomy, prompts=len(task))
    neuron, out = (node_hooks(anatomy, name)[1].change for name in ("mlp_post", "mlp_out"))
    with relevance(model, rules="paper"):
        passed = runner.forward(task.base, read=[neuron, out], gradients=True)
        found = runner.gradients(passed.logits[:, 5].sum(), passed, [neuron, out])
    weight = anatomy.blocks[1].down.weight
    expected = found[out] @ (weight.T if family == "gpt2" else weight)
    torch.testing.assert_close(found[neuron], expected)


def test_rules_that_cannot_be_applied_are_refused_before_anything_runs() -> None:
    ran = []
    squared = model_of("llama")
    from transformers.activations import ACT2FN

    squared.model.layers[1].mlp.act_fn = ACT2FN["relu2"]
    squared.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match="does not know activation ReLUSquared"), relevance(squared, rules="paper"):
        squared(torch.zeros(1, 2, dtype=torch.long))

    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(32)), 1e-5

        def forward(self, x: Tensor) -> Tensor:
            return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.weight

    strange = model_of("llama")
    strange.model.layers[0].input_layernorm = Strange()
    with pytest.raises(ValueError, match="norm Strange is not known"), relevance(strange, rules="ln"):
        pass
    extra = model_of("gpt2")
    extra.transformer.h[1].added = nn.LayerNorm(32)
    with (
        pytest.raises(ValueError, match=r"norms that no rule knows: transformer\.h\.1\.added"),
        relevance(extra, rules="ln"),
    ):
        pass
    gone = model_of("llama")
    del gone.model.layers[2].mlp.up_proj
    with pytest.raises(ValueError, match=r"no 'model\.layers\.2\.mlp\.up_proj'"), relevance(gone, rules="half"):
        pass
    other = model_of("gpt2")
    other.config.model_type = "bloom"
    with pytest.raises(ValueError, match=r"'bloom' block.*families declared are gpt2"), relevance(other, rules="ln"):
        pass
    assert ran == []


def test_a_rule_that_did_not_fire_everywhere_raises() -> None:
    model, tokens = model_of("llama"), random_task().clean
    mlp = model.model.layers[1].mlp
    activation = mlp.act_fn
    mlp.forward = lambda x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    assert activation is mlp.act_fn
    with relevance(model, rules="paper"), pytest.raises(RuntimeError, match=r"identity.*2 of 3"):
        model(tokens)


def test_firings_are_counted_by_pass() -> None:
    model, tokens = model_of("gemma3"), random_task().clean
    with relevance(model, rules="paper") as fired:
        for _ in range(2):
            model(tokens)
            assert fired == {"ln": 4 * LAYERS + 1, "identity": LAYERS, "half": 2 * LAYERS, "ah": 2 * LAYERS}


def test_rules_do_not_nest_and_are_not_mistaken_for_a_plain_gradient() -> None:
    model = model_of("gpt2")
    with relevance(model, rules="ln"):
        with pytest.raises(ValueError, match="in force on this model already"), relevance(model, rules="ah"):
            pass
        with pytest.raises(ValueError, match="pass rules= instead"):
            circuits.attribute(model, random_task(), nodes="z", method="atp")


def test_names_of_rules() -> None:
    assert rule_set("paper") == rule_set(["LN-rule", "Identity-rule", "half", "AH-rule", "0-rule"])
    assert rule_set("ln") == {"ln"}
    with pytest.raises(ValueError, match="no rule softmax; rules are ln"):
        rule_set(["ln", "softmax"])
    assert VOCAB > 11
