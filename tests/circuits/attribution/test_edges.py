"""Edges: sums that must equal node scores, a patch of each reader made by hand, and a model in which all is linear."""

import pytest
import torch
from torch import Tensor, nn

import circuits
from circuits.anatomy.anatomy import Anatomy
from circuits.anatomy.wiring import PARTS, Wiring, output_weights
from circuits.attribution.edge_patching import EdgePatcher
from circuits.attribution.edges import attribute_edges
from circuits.runs.pair import open_session
from circuits.tasks.task import Task
from tests.circuits.pairs import ALL_FAMILIES, MIXTURES, WIRED, model_of, precise, random_task
from tests.interp.sites.family_oracle import FACTS, recompute
from tests.tiny_models import HEADS, cases, tiny_model


def node_scores(model, task, **options) -> dict[str, float]:
    """Scores of the writers by the node methods, positions summed."""
    found = circuits.attribute(model, task, nodes=["resid_pre", "z", "mlp_out"], by_position=False, **options)
    scores = {"embed": float(found["resid_pre"].values[0])}
    for layer in range(model.config.num_hidden_layers):
        scores |= {f"a{layer}.h{head}": float(found["z"].values[layer, head]) for head in range(HEADS)}
        scores[f"m{layer}"] = float(found["mlp_out"].values[layer])
    return scores


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", cases(WIRED))
def test_edges_of_a_writer_sum_to_its_node_score(family: str, direction: str) -> None:
    """Also under the rules, and where heads share keys and values."""
    model, task = precise(family), random_task(direction=direction)
    exact = family == "gpt2"  # RMSNorm, and NeoX's attention, compute in float32 whatever the model
    methods = [
        ({"method": "eap"}, {"method": "atp"}),
        ({"method": "relp", "rules": "no_ah"},) * 2,
        ({"method": "relp", "rules": "paper"},) * 2,
    ]
    for edges, nodes in methods[:1] if family in MIXTURES else methods:
        found = attribute_edges(model, task, **edges)
        expected = node_scores(model, task, **nodes)
        assert found.node_values() == pytest.approx(expected, abs=1e-10 if exact else 2e-5)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_default_rules_are_those_of_the_family(family: str) -> None:
    """AH where queries and keys are normalised, and only there."""
    model, task = model_of(family), random_task()
    normalises = any(name.endswith("q_norm") for name, _ in model.named_modules())
    assert normalises is (family == "gemma3")
    found = attribute_edges(model, task, method="relp")
    expected = attribute_edges(model, task, method="relp", rules="paper" if normalises else "no_ah")
    assert found.rules == expected.rules
    assert ("ah" in found.rules) is normalises
    assert torch.equal(found.values, expected.values)


def test_under_ah_queries_and_keys_have_no_edges() -> None:
    found = attribute_edges(model_of("llama"), random_task(), method="relp", rules="paper")
    for (_, reader), score in found.edges.items():
        if reader.endswith((".q", ".k")):
            assert score == 0
    assert any(score != 0 for (_, reader), score in found.edges.items() if reader.endswith(".v"))


@pytest.mark.parametrize("family", cases(WIRED))
def test_projections_are_read_off_rightly(family: str) -> None:
    model = model_of(family)
    wiring = Wiring(open_session(model, random_task()).anatomy)
    block = wiring.anatomy.blocks[1]
    x = torch.randn(2, 3, 32)
    for part in PARTS:
        hook = wiring.hooks.parts[part][1]
        weights, bias = wiring.projections[part][1]
        expected = hook.change.read(hook.change.module(x))
        torch.testing.assert_close(torch.einsum("npd,had->npha", x, weights) + bias, expected, rtol=1e-4, atol=1e-5)
    z = torch.randn(2, 3, HEADS, output_weights(wiring.anatomy, block).shape[1])
    whole = torch.einsum("npha,had->npd", z, output_weights(wiring.anatomy, block))
    expected = block.o(z.flatten(-2)) - block.o(torch.zeros_like(z).flatten(-2))
    expected = expected * FACTS[family].get("times", 1.0)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in WIRED if case != "qwen2"])
def test_writers_write_what_the_modules_add_to_the_stream(case: str) -> None:
    """Heads sum to what attention adds but for its bias, by the oracle of sites, which checks the sum of all."""
    model, task = tiny_model(case), random_task()
    session = open_session(model, task)
    wiring = Wiring(session.anatomy)
    written = dict(zip([u.name for u in wiring.writers], EdgePatcher(session, wiring).written(task.base), strict=True))
    sites, facts = recompute(case, model, task.base), FACTS[case]
    torch.testing.assert_close(written["embed"], sites["blocks.0.hook_resid_pre"])
    for layer, block in enumerate(session.anatomy.blocks):
        bias = 0 if getattr(block.o, "bias", None) is None else block.o.bias * facts.get("times", 1.0)
        heads = sum(written[f"a{layer}.h{head}"] for head in range(HEADS))
        torch.testing.assert_close(heads + bias, sites[f"blocks.{layer}.hook_attn_out"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(written[f"m{layer}"], sites[f"blocks.{layer}.hook_mlp_out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", cases(WIRED))
def test_path_patching_is_a_patch_of_one_reader(family: str) -> None:
    """Each reader's new value is computed by the model's own modules from a stream that was changed for it alone, and
    put in its place by plain hooks."""
    model, task = precise(family), random_task(n=1)
    found = attribute_edges(model, task, method="path-patching")
    session = open_session(model, task)
    wiring = Wiring(session.anatomy)
    patcher = EdgePatcher(session, wiring)
    source, base = patcher.written(task.source), patcher.written(task.base)
    inputs: dict[nn.Module, Tensor] = {}

    def keep_input(module, args, kwargs) -> None:
        inputs[module] = (args[0] if args else kwargs["hidden_states"]).clone()

    blocks = session.anatomy.blocks
    looked_at = [module for block in blocks for module in (block.whole, block.norm2, block.mlp) if module is not None]
    hooks = [module.register_forward_pre_hook(keep_input, with_kwargs=True) for module in looked_at]
    with torch.no_grad():
        model(task.base)
    for hook in hooks:
        hook.remove()
    generator = torch.Generator().manual_seed(0)
    edges, count = wiring.mask.nonzero(), 40 if family in ALL_FAMILIES else 15
    tolerance = 1e-9 if family == "gpt2" else 5e-5 if family in MIXTURES else 1e-5
    for row, column in edges[torch.randperm(len(edges), generator=generator)[:count]].tolist():
        reader = wiring.readers[column]
        gap = source[row] - base[row]
        with torch.no_grad():
            effect = patched_reader(session.anatomy, model, task, reader, inputs, gap, wiring, patcher)
        assert float(found.values[row, column]) == pytest.approx(effect, abs=tolerance)


def patched_reader(anatomy: Anatomy, model, task, reader, inputs, gap: Tensor, wiring: Wiring, patcher) -> float:
    if reader.name == "logits":
        handle = anatomy.final_norm.register_forward_pre_hook(lambda _m, args: (args[0] + gap,))
    elif reader.is_mlp:
        block = anatomy.blocks[reader.layer]
        if block.norm2 is not None:
            read = block.norm2(inputs[block.norm2] + gap)
        elif block.norm1 is not None:  # in parallel with attention, through its norm
            read = block.norm1(inputs[block.whole] + gap)
        else:  # no norm before it
            read = inputs[block.mlp] + gap
        value = block.mlp.forward(read)
        handle = block.mlp.register_forward_hook(lambda *_: value)
    else:
        block = anatomy.blocks[reader.layer]
        module = getattr(block, reader.part)
        hook = wiring.hooks.parts[reader.part][reader.layer].change
        stream = inputs[block.whole] + gap
        new = hook.read(module.forward(stream if block.norm1 is None else block.norm1(stream)))

        def replace(_module, _args, output):
            only = torch.zeros_like(new)
            only[:, :, reader.head] = (new - hook.read(output))[:, :, reader.head]
            return output + hook.embed(only)

        handle = module.register_forward_hook(replace)
    logits = model(task.base).logits[:, -1]
    handle.remove()
    return float((patcher.pair.measure(logits) - patcher.pair.base_metric).mean())


@pytest.mark.parametrize("family", cases(WIRED))
def test_cutting_everything_is_the_other_run_and_cutting_a_node_is_patching_it(family: str) -> None:
    model, task = precise(family), random_task()
    session = open_session(model, task)
    wiring = Wiring(session.anatomy)
    patcher = EdgePatcher(session, wiring)
    nothing, everything = torch.zeros_like(wiring.mask), wiring.mask.clone()
    head = torch.zeros_like(wiring.mask)
    row = [u.name for u in wiring.writers].index("a1.h2")
    head[row] = wiring.mask[row]
    effects = (patcher.pair.measure(patcher.logits(torch.stack([nothing, everything, head]))).mean(1)).sub(
        patcher.pair.base_metric.mean()
    )
    assert float(effects[0]) == pytest.approx(0, abs=1e-5)
    assert float(effects[1]) == pytest.approx(1, abs=1e-4)
    exact = circuits.attribute(model, task, nodes="z", method="patching", by_position=False).values[1, 2]
    if (
        session.anatomy.blocks[1].attention_post_norm is None
    ):  # there a head's output depends on the norm behind all of them
        assert float(effects[2]) == pytest.approx(float(exact), abs=1e-4)


def test_eap_ig_converges_with_the_error_of_a_left_riemann_sum() -> None:
    """Edges into the logits from the input alone interpolate a known function; the sums over all edges of the input
    converge to a limit with error 1 / m, and m = 1 is EAP."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task()
    one = attribute_edges(model, task, method="eap-ig", steps=1).values
    assert torch.equal(one, attribute_edges(model, task, method="eap").values)
    # The input's edges sum to integrated gradients of the input, which sum to the whole effect: 1.
    gaps = [attribute_edges(model, task, method="eap-ig", steps=m).node_values()["embed"] - 1 for m in (10, 20, 40)]
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.25)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.25)
    cost = attribute_edges(model, task, method="eap-ig", steps=4).cost
    assert (cost.forwards, cost.backwards) == (2 + 3, 4)


def linear_model():
    """A GPT-2 whose norms divide by nothing, whose attention does not look and whose MLPs are linear."""
    model = model_of("gpt2", dtype=torch.float64)

    class Centre(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(-1, keepdim=True)) * self.weight + self.bias

    for block in model.transformer.h:
        block.attn.c_attn.weight.data[:, :64] = 0  # queries and keys are constants: so are the patterns
        block.mlp.act = nn.Identity()
    for owner, name in [(b, n) for b in model.transformer.h for n in ("ln_1", "ln_2")] + [(model.transformer, "ln_f")]:
        norm = Centre(32).to(torch.float64)
        norm.load_state_dict(getattr(owner, name).state_dict())
        setattr(owner, name, norm)
    return model


def test_eap_ig_of_a_square_is_the_sum_that_can_be_worked_out() -> None:
    """In a linear model the logit difference goes from a to b in a straight line, and the gradient of its square at
    k / m of the way is 2 (a + (b - a) k / m): the mean over k = 0 … m - 1, times b - a, is b² - a² - (b - a)² / m."""
    model, task = linear_model(), random_task(n=1)
    right, wrong = int(task.correct[0, 0]), int(task.wrong[0, 0])
    ends = (model(tokens).logits[0, -1].detach() for tokens in (task.corrupt, task.clean))
    a, b = (float(logits[right] - logits[wrong]) for logits in ends)
    squared = task.replace(metric=lambda logits, _task: (logits[:, right] - logits[:, wrong]) ** 2)
    for m in (1, 2, 5):
        expected = 1 - (b - a) ** 2 / m / (b**2 - a**2)
        for direction, sign in (("denoise", 1), ("noise", -1)):  # the points are the same, the difference is not
            found = attribute_edges(model, squared.replace(direction=direction), method="eap-ig", steps=m)
            assert found.node_values()["embed"] == pytest.approx(sign * expected, abs=1e-10)


def published_eap_ig(model, task: Task, steps: int) -> dict[tuple[str, str], float]:
    """As EAP-IG's code has it, for writers and readers that are no heads: inputs ``corrupt + k / m (clean - corrupt)``
    for k = 0 … m - 1; (corrupt - clean output) . mean gradient of the loss, which is minus the logit difference."""
    layers, ends = model.transformer.h, {}
    for tokens, sign in ((task.corrupt, 1), (task.clean, -1)):
        with torch.no_grad():
            embedded = model.transformer.wte(tokens) + model.transformer.wpe.weight[: task.length]
            outputs = {
                f"m{i}": layer.mlp.register_forward_hook(keep(ends, f"m{i}", sign)) for i, layer in enumerate(layers)
            }
            model(tokens)
        ends["embed", sign] = embedded
        for hook in outputs.values():
            hook.remove()
    written = {u: ends[u, 1] - ends[u, -1] for u in ("embed", "m0", "m1", "m2")}
    readers = {f"m{i}": layer.ln_2 for i, layer in enumerate(layers)} | {"logits": model.transformer.ln_f}
    scores = {(u, v): 0.0 for u in written for v in readers if u != v and (u == "embed" or u < v or v == "logits")}
    for k in range(steps):
        point = ends["embed", 1] + k / steps * (ends["embed", -1] - ends["embed", 1])
        seen: dict[str, Tensor] = {}
        hooks = [layers[0].register_forward_pre_hook(lambda _m, args, x=point: (x.clone().requires_grad_(), *args[1:]))]
        hooks += [norm.register_forward_pre_hook(read_alone(seen, name)) for name, norm in readers.items()]
        logits = model(task.clean).logits[:, -1]
        for hook in hooks:
            hook.remove()
        rows = torch.arange(len(task))
        loss = (logits[rows, task.wrong[:, 0]] - logits[rows, task.correct[:, 0]]).mean()
        slopes = dict(zip(seen, torch.autograd.grad(loss, list(seen.values())), strict=True))
        for u, v in scores:
            scores[u, v] += float((written[u] * slopes[v]).sum()) / steps
    return scores


def keep(into: dict, name: str, sign: int):
    return lambda _module, _args, output: into.__setitem__((name, sign), output)


def read_alone(into: dict[str, Tensor], name: str):
    """A hook that gives a module an alias of its input, whose gradient is that of this use alone."""

    def hook(_module, args):
        into[name] = args[0].view_as(args[0])
        return (into[name],)

    return hook


def test_eap_ig_is_the_published_one() -> None:
    """Theirs is of a loss, and on the metric's own scale; from 1 step (EAP at the corrupt input) on."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task(direction="noise")
    for steps in (1, 3):
        expected = published_eap_ig(model, task, steps)
        found = attribute_edges(model, task, method="eap-ig", steps=steps)
        scale = found.clean_metric - found.corrupt_metric
        ours = {edge: -found.edges[edge] * scale for edge in expected}
        assert len(ours) == 4 + 3 + 2 + 1
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)
    at_corrupt = attribute_edges(model, task.replace(direction="denoise"), method="eap").values
    torch.testing.assert_close(attribute_edges(model, task, method="eap-ig", steps=1).values, -at_corrupt)


def test_in_a_linear_model_every_method_says_the_same() -> None:
    model, task = linear_model(), random_task()
    exact = node_scores(model, task, method="patching")
    assert node_scores(model, task, method="atp") == pytest.approx(exact, abs=1e-12)
    assert node_scores(model, task, method="ig") == pytest.approx(exact, abs=1e-12)
    edges = attribute_edges(model, task, method="eap")
    torch.testing.assert_close(
        edges.values, attribute_edges(model, task, method="path-patching").values, rtol=0, atol=1e-12
    )
    assert edges.node_values() == pytest.approx(exact, abs=1e-12)
    # A ReLU that is always on is linear too, and the rules have names for it; the norms are linear as they are.
    for block in model.transformer.h:
        block.mlp.act, block.mlp.c_fc.bias.data[:] = nn.ReLU(), 1e4
    exact = node_scores(model, task, method="patching")
    for rules in (["ah", "identity"], ["identity"]):
        assert node_scores(model, task, method="relp", rules=rules) == pytest.approx(exact, abs=1e-8)


def test_acdc_in_batches_is_acdc_one_edge_after_the_other() -> None:
    model, task, threshold = model_of("gpt2"), random_task(direction="noise"), 0.001
    model.transformer.h, model.config.n_layer = model.transformer.h[:2], 2
    found = attribute_edges(model, task, method="acdc", threshold=threshold)
    session = open_session(model, task)
    wiring = Wiring(session.anatomy)
    patcher = EdgePatcher(session, wiring)
    whole = patcher.pair.base.logits.log_softmax(-1)
    cut, current, costs = torch.zeros_like(wiring.mask), 0.0, torch.zeros(wiring.mask.shape, dtype=torch.float64)
    for column in reversed(range(len(wiring.readers))):
        for row in reversed(wiring.mask[:, column].nonzero().flatten().tolist()):
            cut[row, column] = True
            now = patcher.logits(cut[None])[0].log_softmax(-1)
            divergence = float((whole.exp() * (whole - now)).sum(-1).mean())
            if divergence - current < threshold:
                current = divergence
            else:
                cut[row, column], costs[row, column] = False, divergence - current
    assert 5 < int((costs != 0).sum()) < len(found.edges) / 2
    assert torch.equal(found.values != 0, costs != 0)
    torch.testing.assert_close(found.values, costs, rtol=1e-3, atol=1e-5)
    # The two runs, what the reference run writes, every edge, and those that were tried again.
    assert len(found.edges) + 3 < found.cost.forwards < 1.5 * len(found.edges)


def test_mistakes_are_named() -> None:
    model, task = model_of("gpt2"), random_task()
    with pytest.raises(ValueError, match="method 'atp' for edges is not one of eap"):
        attribute_edges(model, task, method="atp")
    with pytest.raises(ValueError, match=r"threshold is 0\.0"):
        attribute_edges(model, task, method="acdc", threshold=0.0)
    wiring = Wiring(open_session(model, task).anatomy)
    with pytest.raises(ValueError, match=r"a0\.h1\.q does not read from m0"):
        wiring.index("m0", "a0.h1.q")
    with pytest.raises(ValueError, match=r"'a9\.h0' is not a writer"):
        wiring.index("a9.h0", "logits")
