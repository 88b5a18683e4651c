"""Changes of latents: direct equals what edges predict in every family; the other modes equal models written out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.graphs import LatentChange, attribution_graph, intervening
from circuits.graphs.graph import LATENT, TARGET
from circuits.graphs.interventions.changes import MODES
from interp.sites.softmax import PATTERN, show_softmax
from saes import TopK
from tests.circuits.graphs.sets import LENGTH, precise, prompt, random_set
from tests.circuits.graphs.test_building import IN_FLOAT32, SERVED
from tests.circuits.pairs import bridge_of
from tests.tiny_models import cases, tiny_model


def strongest(graph, k: int = 3) -> list[LatentChange]:
    """Of the latents that act on something, some of the most influential of different layers and positions."""
    found = graph.top(40, LATENT)
    return [
        LatentChange(found[0].layer, found[0].index, 0.0, "set", found[0].position),
        LatentChange(found[7].layer, found[7].index, 1.5, "add", found[7].position),
        LatentChange(found[19].layer, found[19].index, 0.25, "scale", found[19].position),
    ][:k]


@pytest.mark.parametrize("family", cases(SERVED))
def test_direct_is_what_the_graph_predicts(family: str) -> None:
    model = precise(family)
    layers = tuple(range(model.config.num_hidden_layers))
    graph = attribution_graph(model, prompt(), random_set("clt", layers=layers, skip=True))
    changes = strongest(graph)
    found, expected = graph.intervene(changes, mode="direct").change, graph.predict(changes)
    known = graph.mask(LATENT, TARGET)
    layer_norm = any(isinstance(module, torch.nn.LayerNorm) for module in model.modules())
    np.testing.assert_allclose(found[known], expected[known], atol=1e-10 if layer_norm else IN_FLOAT32)
    assert np.abs(expected[graph.mask(TARGET)]).max() > 1e-3
    assert np.isnan(found[~known]).all()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_direct_in_single_precision(family: str) -> None:
    graph = attribution_graph(tiny_model(family), prompt(), random_set(skip=True, dtype=torch.float32))
    changes = strongest(graph)
    known = graph.mask(LATENT, TARGET)
    found, expected = graph.intervene(changes, mode="direct").change[known], graph.predict(changes)[known]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def gpt2_by_hand(model, ids: Tensor, adds: dict[int, Tensor], patterns: list[Tensor] | None) -> Tensor:
    """Last logits of a GPT-2 whose MLPs write more, with its own patterns or given ones; from its modules."""
    t = model.transformer
    n, heads = len(ids), model.config.n_head
    x = t.wte(ids) + t.wpe.weight[:n]
    mask = torch.full((n, n), -torch.inf, dtype=x.dtype).triu(1)
    for layer, block in enumerate(t.h):
        q, k, v = block.attn.c_attn(block.ln_1(x)).view(n, 3, heads, -1).unbind(1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        pattern = (scores + mask).softmax(-1) if patterns is None else patterns[layer]
        x = x + block.attn.c_proj(torch.einsum("hqk,khd->qhd", pattern, v).reshape(n, -1))
        x = x + block.mlp(block.ln_2(x)) + adds.get(layer, 0)
    return model.lm_head(t.ln_f(x))[-1]


@pytest.mark.parametrize("kind", ["transcoders", "clt"])
@pytest.mark.parametrize("mode", ["frozen_attention", "live"])
def test_other_modes_are_the_model_with_more_written(mode: str, kind: str) -> None:
    model, ids, made = precise("gpt2"), prompt(), random_set(kind, activation=TopK(4))
    graph = attribution_graph(model, ids, made)
    node = next(node for node in graph.top(40, LATENT) if node.layer == 0)
    change = LatentChange(0, node.index, 3.0, "set", node.position)
    adds: dict[int, Tensor] = {}
    for number, place in enumerate(made.layout.parts[0].writes):
        adds[place] = torch.zeros(LENGTH, model.config.n_embd, dtype=torch.float64)
        adds[place][node.position] = (3.0 - float(graph.pre_activation[node.number])) * made.parts[0].at_place(number)[
            node.index
        ]
    with torch.no_grad():
        out = model(ids[None], output_attentions=True)
        patterns = [pattern[0] for pattern in out.attentions]
        expected = gpt2_by_hand(model, ids, adds, patterns if mode == "frozen_attention" else None)
        torch.testing.assert_close(gpt2_by_hand(model, ids, {}, None), out.logits[0, -1])
        other = gpt2_by_hand(model, ids, adds, None if mode == "frozen_attention" else patterns)
    found = graph.intervene([change], mode=mode)
    torch.testing.assert_close(found.logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.clean_logits, out.logits[0, -1], rtol=1e-10, atol=1e-10)
    assert (expected - other).abs().max() > 1e-4
    token, after, before = found.top(1)[0]
    assert after == pytest.approx(float(expected.softmax(-1)[token]))
    assert before == pytest.approx(float(out.logits[0, -1].softmax(-1)[token]))


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon_40b", "gemma3"])
def test_frozen_patterns_are_those_of_the_prompt(family: str) -> None:
    model = precise(family)
    graph = attribution_graph(model, prompt(), random_set())
    seen: list[Tensor] = []
    attentions = [block.attention for block in graph.reruns.anatomy.blocks]
    undo = [show_softmax(attention) for attention in attentions]
    handles = [
        a._modules[PATTERN].register_forward_hook(lambda _m, _a, y: seen.append(y.detach().clone())) for a in attentions
    ]
    changes = [[LatentChange(0, index, 5.0, "add", 2) for index in range(4)]]
    for mode in ("frozen_attention", "live"):
        graph.reruns.run(mode, changes=changes)
    model(prompt()[None])
    for stop in (*undo, *(handle.remove for handle in handles)):
        stop()
    frozen, live, clean = seen[:3], seen[3:6], seen[6:]
    for one, other in zip(frozen, clean, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert max(float((one - other).abs().max()) for one, other in zip(live, clean, strict=True)) > 1e-3


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    graph = attribution_graph(precise("opt"), prompt(), random_set())
    changes = [[change] for change in strongest(graph)]
    for mode in MODES:
        together = graph.reruns.run(mode, rows=3, changes=changes)
        for row, its in enumerate(changes):
            alone = graph.reruns.run(mode, changes=[its])
            torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["transcoders", "clt"])
def test_generation_with_a_cache_is_generation_without(kind: str) -> None:
    model, made = tiny_model("gpt_neox"), random_set(kind, activation=TopK(4), dtype=torch.float32)
    ids = prompt()[None]
    changes = [LatentChange(0, 3, 6.0, "set"), LatentChange(1, 5, 4.0, "add", position=2)]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "output_scores": True}
    found = {}
    for scope in ("all", "decode"):
        with intervening(model, made, changes, scope=scope, prompt_length=ids.shape[1]):
            runs = [
                model.generate(ids, use_cache=cached, return_dict_in_generate=True, **options)
                for cached in (True, False)
            ]
        assert torch.equal(runs[0].sequences, runs[1].sequences)
        torch.testing.assert_close(torch.stack(runs[0].scores), torch.stack(runs[1].scores), rtol=1e-4, atol=1e-4)
        found[scope] = torch.stack(runs[0].scores)
    plain = torch.stack(model.generate(ids, return_dict_in_generate=True, **options).scores)
    assert (found["all"][0] - plain[0]).abs().max() > 1e-3
    assert (found["decode"][0] - found["all"][0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_bridge_runs_with_the_same_changes(family: str) -> None:
    """The context's hooks are on the bridge itself, the graph's on plain modules."""
    made = random_set("clt", activation=TopK(4), dtype=torch.float32)
    graph = attribution_graph(tiny_model(family), prompt(), made)
    changes = strongest(graph)
    bridge = bridge_of(tiny_model(family))
    with intervening(bridge, made, changes):
        logits = bridge(prompt()[None])[0, -1]
    torch.testing.assert_close(logits, graph.intervene(changes).logits, rtol=1e-4, atol=1e-4)
    assert (logits - bridge(prompt()[None])[0, -1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "changes is empty"),
        ([LatentChange(7, 0)], "a layer without a transcoder"),
        ([LatentChange(0, 99)], "is of no latent"),
        ([LatentChange(0, 0, position=0)], "no transcoder stands in"),
        ([LatentChange(0, 0, position=50)], "no transcoder stands in"),
    ],
)
def test_changes_of_what_is_not_there_are_refused(changes: list, message: str) -> None:
    graph = attribution_graph(precise("gpt2"), prompt(), random_set(), targets=[3])
    with pytest.raises(ValueError, match=message):
        graph.intervene(changes)


def test_unknown_modes_and_families_are_refused() -> None:
    model = precise("opt")
    graph = attribution_graph(model, prompt(), random_set(), targets=[3])
    with pytest.raises(ValueError, match="not one of direct, frozen_attention, live"):
        graph.reruns.run("frozen", changes=[])
    with pytest.raises(ValueError, match="no node of this graph"):
        graph.predict([LatentChange(0, 0, position=0)])
    with (
        pytest.raises(ValueError, match="no module is the MLP"),
        intervening(model, random_set(), [LatentChange(0, 0)]),
    ):
        pass
