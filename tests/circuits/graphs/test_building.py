"""Attribution graphs: sources add up to their targets in every family, and equal explicit Jacobians."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
from circuits.graphs import AttributionGraph, Difference, Direction, attribution_graph, fit_error_split
from circuits.graphs.graph import ERROR, LATENT, LINEAR_ERROR, TARGET, TOKEN
from saes import SAE, BatchTopK, Gated, JumpReLU, ReLU, TopK
from tests.circuits.graphs.sets import D_SAE, LENGTH, precise, prompt, random_set
from tests.circuits.pairs import LATENT_ATTENTION, MIXTURES, bridge_of
from tests.tiny_models import CONFIGS, LAYERS, WIDTH, cases, tiny_model

SERVED = [name for name in CONFIGS if name not in (*MIXTURES, *LATENT_ATTENTION, "xglm")]
"""And XGLM, which transformers runs in float32 at most."""
IN_FLOAT32 = 1e-5
"""Hugging Face's RMS norms compute in float32 in a float64 model too."""


def missing(graph: AttributionGraph) -> float:
    """Of the largest row what sources, biases and left-out positions do not add up to."""
    known = ~np.isnan(graph.pre_activation)
    total = graph.adjacency.sum(1) + graph.bias + graph.left_out + graph.unselected
    assert known.sum() > 20
    return float(np.abs(total - graph.pre_activation)[known].max())


def test_sources_add_up_in_a_model_that_runs_in_float32_alone() -> None:
    graph = attribution_graph(tiny_model("xglm"), prompt(), random_set(skip=True, dtype=torch.float32))
    assert missing(graph) < 10 * IN_FLOAT32


@pytest.mark.parametrize("family", cases(SERVED))
def test_sources_add_up_to_every_target(family: str) -> None:
    model = precise(family)
    layers = tuple(range(model.config.num_hidden_layers))
    graph = attribution_graph(model, prompt(), random_set(layers=layers, skip=True))
    layer_norm = any(isinstance(module, torch.nn.LayerNorm) for module in model.modules())
    assert missing(graph) < (1e-12 if layer_norm else IN_FLOAT32)
    assert np.nanmax(np.abs(graph.unselected)) < 1e-10
    assert np.abs(graph.left_out[graph.mask(TARGET)]).min() > 1e-6


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", [TopK(5), JumpReLU(), ReLU(), BatchTopK(4)], ids=lambda a: a.name)
@pytest.mark.parametrize("kind", ["transcoders", "clt"])
def test_every_kind_of_set_adds_up(kind: str, activation, skip: bool) -> None:
    made = random_set(kind, activation=activation, skip=skip)
    graph = attribution_graph(precise("gpt_neox"), prompt(), made)
    assert missing(graph) < 1e-12
    n = graph.nodes
    values = n.value[n.kind == LATENT]
    assert (values > 0).all()
    np.testing.assert_allclose(graph.pre_activation[n.kind == LATENT], values, rtol=1e-6)


@pytest.mark.parametrize("read", ["blocks.{}.ln2.hook_normalized", "blocks.{}.hook_resid_mid"])
@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_other_places_before_an_mlp_add_up(family: str, read: str) -> None:
    graph = attribution_graph(precise(family), prompt(), random_set(read=read, skip=True))
    assert missing(graph) < (1e-12 if family == "gpt2" else IN_FLOAT32)


def test_without_some_layers_whole_mlps_are_errors() -> None:
    model = precise("gpt2")
    graph = attribution_graph(model, prompt(), random_set(layers=(1,)), leave_out=())
    assert missing(graph) < 1e-12
    n, own = graph.nodes, graph.mask(ERROR) & (graph.nodes.layer == 2)
    written: list[Tensor] = []
    handle = model.transformer.h[2].mlp.register_forward_hook(lambda _m, _a, y: written.append(y))
    model(prompt()[None])
    handle.remove()
    np.testing.assert_allclose(n.value[own], written[0][0].norm(dim=-1).detach().numpy(), rtol=1e-6)
    assert set(n.layer[n.kind == LATENT]) == {1}


def frozen_gpt2(model, ids: Tensor, made) -> tuple:
    """Inputs of the affine map, and the map: from token embeddings and MLP outputs to what transcoders read and to the
    unembedding's input. Written from weights, with patterns and scales of the run; nothing of ours."""
    t = model.transformer
    with torch.no_grad():
        out = model(ids[None], output_attentions=True, output_hidden_states=True)
        seen: dict[str, list[Tensor]] = {"inputs": [], "mlps": [], "mids": [], "last": []}
        handles = [b.ln_2.register_forward_pre_hook(lambda _m, a: seen["mids"].append(a[0][0])) for b in t.h]
        handles += [b.mlp.register_forward_pre_hook(lambda _m, a: seen["inputs"].append(a[0][0])) for b in t.h]
        handles += [b.mlp.register_forward_hook(lambda _m, _a, y: seen["mlps"].append(y[0])) for b in t.h]
        handles += [t.ln_f.register_forward_pre_hook(lambda _m, a: seen["last"].append(a[0][0]))]
        model(ids[None])
        for handle in handles:
            handle.remove()
    n, d, heads = len(ids), WIDTH, model.config.n_head
    inputs, mids = seen["inputs"], seen["mids"]

    def norm(module, x: Tensor, at: Tensor) -> Tensor:
        deviation = (at.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * module.weight + module.bias

    def affine(embedding: Tensor, *written: Tensor) -> Tensor:
        x, reads = embedding + t.wpe.weight[:n], []
        for layer, block in enumerate(t.h):
            a = norm(block.ln_1, x, out.hidden_states[layer][0])
            values = (a @ block.attn.c_attn.weight + block.attn.c_attn.bias)[:, 2 * d :].view(n, heads, -1)
            z = torch.einsum("hqk,khd->qhd", out.attentions[layer][0], values).reshape(n, d)
            x = x + z @ block.attn.c_proj.weight + block.attn.c_proj.bias
            reads.append(norm(block.ln_2, x, mids[layer]))
            x = x + written[layer]
            if made.parts[0].skip:
                kept = (torch.arange(n) > 0)[:, None]
                x = x + kept * (reads[-1] @ made.parts[layer].W_skip.T - (inputs[layer] @ made.parts[layer].W_skip.T))
        return torch.stack([*reads, norm(t.ln_f, x, seen["last"][0])])

    return (t.wte.weight[ids].detach(), *seen["mlps"]), affine, inputs


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["transcoders", "clt"])
def test_adjacency_equals_explicit_jacobians(kind: str, skip: bool) -> None:
    """Every edge of a graph against a full Jacobian of a frozen GPT-2 written in a page, in float64."""
    model, ids, made = precise("gpt2"), prompt(), random_set(kind, activation=TopK(4), skip=skip)
    graph = attribution_graph(model, ids, made, targets=[3, 11])
    values, affine, inputs = frozen_gpt2(model, ids, made)
    jacobians = torch.autograd.functional.jacobian(affine, values)  # each [read, position, d, position, d]
    with torch.no_grad():
        latents = [part.encode(x).to_dense() for part, x in zip(made.parts, inputs, strict=True)]
        for dense in latents:
            dense[0] = 0
        written = [torch.zeros(LENGTH, WIDTH, dtype=torch.float64) for _ in range(LAYERS)]
        rows: dict[tuple[int, int], Tensor] = {}
        for layer, (part, places) in enumerate(made.placed()):
            for number, place in enumerate(places.writes):
                rows[layer, place] = part.at_place(number)
                written[place] += latents[layer] @ rows[layer, place]
            written[layer] += part.b_dec + (inputs[layer] @ part.W_skip.T if skip else 0)
        errors = [value - its for value, its in zip(values[1:], written, strict=True)]
        unembed = model.lm_head.weight
        n = graph.nodes
        expected = np.zeros((len(graph), len(graph)))
        for t in np.flatnonzero(n.kind == LATENT).tolist() + np.flatnonzero(n.kind == TARGET).tolist():
            if n.kind[t] == LATENT:
                direction, read, p = made.parts[n.layer[t]].W_enc[:, n.index[t]], n.layer[t], n.position[t]
            else:
                direction, read, p = unembed[n.index[t]] - unembed.mean(0), LAYERS, LENGTH - 1
            slopes = [torch.einsum("e,eqd->qd", direction, jacobian[read, p]) for jacobian in jacobians]
            for s in range(len(graph)):
                q, layer = n.position[s], n.layer[s]
                if n.kind[s] == TOKEN:
                    expected[t, s] = slopes[0][q] @ values[0][q]
                elif n.kind[s] == ERROR:
                    expected[t, s] = slopes[1 + layer][q] @ errors[layer][q]
                elif n.kind[s] == LATENT:
                    a = latents[layer][q, n.index[s]]
                    reached = [place for place in range(LAYERS) if (layer, place) in rows]
                    expected[t, s] = a * sum(slopes[1 + w][q] @ rows[layer, w][n.index[s]] for w in reached)
    np.testing.assert_allclose(graph.adjacency.toarray(), expected, atol=1e-10)
    assert (np.abs(expected) > 1e-6).sum() > 500


def test_a_bridge_gives_the_same_graph() -> None:
    model = tiny_model("llama")
    made = random_set(activation=TopK(4), dtype=torch.float32)
    plain, bridged = (
        attribution_graph(m(), prompt(), made, targets=[5]) for m in (lambda: model, lambda: bridge_of(model))
    )
    np.testing.assert_allclose(plain.adjacency.toarray(), bridged.adjacency.toarray(), atol=1e-5)


def test_transcoders_one_by_one_are_a_set() -> None:
    model, made = precise("gpt2"), random_set()
    single = []
    for layer, part in enumerate(made.parts):
        sae = SAE(WIDTH, D_SAE, ReLU(), subtract_b_dec=False, dtype=torch.float64)
        sae.load_state_dict(part.state_dict())
        sae.place(f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out")
        single.append(sae)
    graphs = [circuits.attribution_graph(model, prompt(), each) for each in (made, single[::-1])]
    np.testing.assert_array_equal(graphs[0].adjacency.toarray(), graphs[1].adjacency.toarray())


def test_small_batches_and_few_nodes_are_the_same_rows() -> None:
    model, made = precise("gpt2"), random_set()
    whole = attribution_graph(model, prompt(), made)
    slow = attribution_graph(model, prompt(), made, memory=1)
    assert slow.cost["backwards"] > 50 > whole.cost["backwards"]
    np.testing.assert_allclose(slow.adjacency.toarray(), whole.adjacency.toarray(), atol=1e-12)
    few = attribution_graph(model, prompt(), made, max_nodes=12)
    assert few.mask(LATENT).sum() == 12
    assert missing(few) < 1e-12
    assert np.nanmax(np.abs(few.unselected)) > 1e-3
    same = [
        whole.find("latent", layer=node.layer, position=node.position, index=node.index) for node in few.top(5, LATENT)
    ]
    edge = [few.adjacency[few.mask(TARGET)][:, [node.number]].toarray() for node in few.top(5, LATENT)]
    for number, its in zip(same, edge, strict=True):
        np.testing.assert_allclose(whole.adjacency[whole.mask(TARGET)][:, [number]].toarray(), its, atol=1e-12)


def test_targets_are_logits_differences_and_directions() -> None:
    model, made, ids = precise("gpt2"), random_set(), prompt()
    vector = torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    given = [7, Difference(7, 9, weight=0.5), Direction("mine", vector, "blocks.1.hook_resid_mid", position=4)]
    graph = attribution_graph(model, ids, made, targets=given)
    assert missing(graph) < 1e-12
    with torch.no_grad():
        out = model(ids[None])
        logits = out.logits[0, -1]
    n = len(graph)
    np.testing.assert_allclose(graph.pre_activation[n - 3], float(logits[7] - logits.mean()), rtol=1e-10)
    np.testing.assert_allclose(graph.pre_activation[n - 2], float(logits[7] - logits[9]), rtol=1e-10)
    np.testing.assert_allclose(graph.weights[n - 3 :], [float(logits.softmax(-1)[7]), 0.5, 1.0], rtol=1e-10)
    sources = graph.adjacency[[n - 1]].tocoo().coords[1]
    assert graph.nodes.layer[sources].max() == 0
    assert graph.nodes.position[sources].max() <= 4
    assert graph.target_names == ("7", "7 - 9", "mine")


def test_default_targets_hold_most_of_the_probability() -> None:
    model, ids = precise("gpt2"), prompt()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
        probabilities = model(ids[None]).logits[0, -1].softmax(-1)
    graph = attribution_graph(model, ids, random_set())
    ranked = probabilities.sort(descending=True).values
    weights = graph.weights[graph.mask(TARGET)]
    np.testing.assert_allclose(weights, ranked[: len(weights)].numpy(), rtol=1e-10)
    assert len(weights) == min(10, int((ranked.cumsum(0) < 0.95).sum()) + 1)


def test_a_split_divides_errors_and_nothing_else() -> None:
    model, made = precise("gpt2"), random_set(activation=TopK(4))
    texts = [prompt(seed=seed, length=30) for seed in range(2, 8)]
    split = fit_error_split(model, made, texts)
    whole, parted = (attribution_graph(model, prompt(), made, targets=[3], split=each) for each in (None, split))
    assert missing(parted) < 1e-12
    target = parted.mask(TARGET)
    parts = [parted.adjacency[target][:, parted.mask(kind)].toarray() for kind in (ERROR, LINEAR_ERROR)]
    np.testing.assert_allclose(
        sum(parts), whole.adjacency[whole.mask(TARGET)][:, whole.mask(ERROR)].toarray(), atol=1e-12
    )
    assert parted.scores.completeness_with_linear > parted.scores.completeness
    assert whole.scores.completeness_with_linear == whole.scores.completeness
    # The fitted map: errors of the corpus have no linear part left in what is read.
    again = fit_error_split(model, made, texts)
    for layer, fitted in split.items():
        torch.testing.assert_close(fitted.weights, again[layer].weights)


def test_what_the_map_does_not_know_is_refused() -> None:
    model = precise("gpt2")
    inner = model.transformer.h[1].attn.c_proj
    own = inner.forward
    inner.forward = lambda x: own(x) + torch.arange(WIDTH)  # a constant that is no bias of the model
    with pytest.raises(ValueError, match=r"does not add up to it|differ"):
        attribution_graph(model, prompt(), random_set())


def test_the_model_is_left_as_it_was() -> None:
    model = precise("gpt2")
    model.lm_head.weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    attribution_graph(model, prompt(), random_set())
    assert flags == [p.requires_grad for p in model.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transcoders": []}, "transcoders is empty"),
        ({"transcoders": random_set(layers=(0, 1, 2, 3))}, "writes to layers 3"),
        ({"transcoders": random_set(activation=Gated())}, "is gated"),
        ({"transcoders": random_set(read="blocks.{}.hook_attn_out")}, "reads no place that a graph knows"),
        ({"transcoders": SAE(WIDTH, D_SAE, ReLU(), subtract_b_dec=False)}, "does not say where it reads"),
        ({"transcoders": SAE(WIDTH, D_SAE, ReLU(), site="blocks.0.hook_resid_post")}, "which writes what it reads"),
        ({"prompt": prompt()[None]}, r"ids \[position\]"),
        ({"prompt": "text"}, "no tokenizer"),
        ({"prompt": [99]}, "token 99 is not in the vocabulary"),
        ({"targets": []}, "targets is empty"),
        ({"targets": [64]}, "there is no token 64"),
        ({"targets": ["word"]}, "has no tokenizer"),
        ({"targets": [Direction("d", torch.zeros(3), "blocks.1.hook_resid_pre")]}, r"this model has \[32\]"),
        ({"targets": [Direction("d", torch.zeros(WIDTH), "blocks.1.hook_mlp_out")]}, "a target cannot be at"),
        ({"targets": [Direction("d", torch.ones(WIDTH), "blocks.1.hook_resid_pre", position=9)]}, "is at position 9"),
        ({"leave_out": (9,)}, "leave_out names position 9"),
        ({"leave_out": range(LENGTH)}, "leaves nothing"),
        ({"max_nodes": 0}, "max_nodes is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"split": {5: lambda x: x}}, "the split is of layer 5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    options = {"prompt": prompt(), "transcoders": random_set()} | change
    with pytest.raises(ValueError, match=message):
        attribution_graph(precise("gpt2"), options.pop("prompt"), options.pop("transcoders"), **options)


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_families_that_the_rules_do_not_serve_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"mixtures of experts|AH rule"):
        attribution_graph(tiny_model(family), prompt(), random_set(dtype=torch.float32))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("half", "small edges are lost"),
        ("inference", "inference_mode"),
        ("rules", "rules"),
        ("training", "training mode"),
    ],
)
def test_models_in_another_state_are_refused(case: str, message: str) -> None:
    model = precise("gpt2")
    context = nullcontext()
    if case == "half":
        model = model.to(torch.bfloat16)
    elif case == "inference":
        context = torch.inference_mode()
    elif case == "rules":
        context = circuits.rules.relevance(model, rules="ln")
    else:
        model.train()
    with pytest.raises(ValueError, match=message), context:
        attribution_graph(model, prompt(), random_set())
