"""MIB's areas and files: its recipe written out again, and circuits that come back equal."""

import json
import math

import pytest
import torch

import circuits
from circuits import Circuit, Evaluator
from circuits.attribution.edges import attribute_edges
from circuits.faithfulness import FRACTIONS
from circuits.mib.areas import mib_areas
from circuits.mib.circuit_files import read_mib, write_mib
from circuits.mib.ungrouping import ungroup
from tests.circuits.pairs import model_of, random_task
from tests.tiny_models import HEADS, LAYERS


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3"])
def test_an_ungrouped_model_computes_the_same_and_its_edges_sum_to_the_shared_ones(family: str) -> None:
    model, task = model_of(family), random_task()
    apart = ungroup(model)
    torch.testing.assert_close(apart(task.clean).logits, model(task.clean).logits, rtol=1e-5, atol=1e-5)
    assert apart.get_parameter("model.embed_tokens.weight").data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert ungroup(apart) is apart
    shared, own = (attribute_edges(m, task, method="eap") for m in (model, apart))
    scores = own.edges
    for (writer, reader), score in shared.edges.items():
        heads = [f"{node}.{reader[-1]}" for node in shared.groups[reader]] if reader[-1] in "kv" else [reader]
        assert sum(scores[writer, head] for head in heads) == pytest.approx(score, abs=1e-5)
    assert len(scores) > len(shared.edges)


@pytest.mark.parametrize(
    ("family", "shared"),
    [
        ("phi3", "qkv_proj"),
        ("falcon_7b", "query_key_value"),
        ("cohere_normed", "k_norm"),
        ("stablelm_parallel", "k_lay"),
    ],
)
def test_heads_that_share_more_than_two_projections_stay_together(family: str, shared: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot have keys and values of their own: .*{shared}"):
        ungroup(model_of(family))


def their_graph(evaluator: Evaluator, circuit: Circuit, n: int, *, absolute: bool) -> torch.Tensor:
    """``Graph.apply_topn`` and ``prune`` with its loop over nodes: which of the edges ``[writer, reader]`` are kept."""
    wiring = evaluator.wiring
    scores = torch.full(wiring.mask.shape, -torch.inf, dtype=torch.float64)
    for edge, gain in circuit.gains().items():
        scores[wiring.index(*edge)] = abs(gain) if absolute else gain
    kept = torch.zeros_like(wiring.mask).flatten()
    kept[scores.flatten().argsort(descending=True)[:n]] = True
    kept = kept.unflatten(0, wiring.mask.shape)
    owns = torch.tensor([[u.name in wiring.owners(v) for v in wiring.readers] for u in wiring.writers])
    while True:
        alive = kept.any(1) & (owns & kept.any(0)).any(1)
        alive[0] = bool(kept[0].any())
        present = (owns & alive[:, None]).any(0)
        present[-1] = True
        pruned = kept & alive[:, None] & present
        if torch.equal(pruned, kept):
            return kept
        kept = pruned


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_areas_are_those_of_the_benchmarks_recipe(family: str) -> None:
    model, task = ungroup(model_of(family)), random_task(n=3, direction="noise")
    whole = Circuit.from_edges(attribute_edges(model, task, method="eap"))
    evaluator = Evaluator(model, task)
    found = mib_areas(evaluator, whole)
    curves = {}
    for absolute in (False, True):
        sizes = [int(share * len(whole.edges)) for share in FRACTIONS]
        kept = torch.stack([their_graph(evaluator, whole, n, absolute=absolute) for n in sizes])
        curves[absolute] = evaluator.scaled(evaluator.wiring.mask & ~kept).mean(1).tolist()
    under = distance = 0.0
    for i in range(len(FRACTIONS) - 1):
        step = FRACTIONS[i + 1] - FRACTIONS[i]
        under += step * (curves[False][i] + curves[False][i + 1]) / 2
        distance += step * (abs(1 - curves[True][i]) + abs(1 - curves[True][i + 1])) / 2
    assert (found.cpr, found.cmd) == pytest.approx((under, distance), abs=1e-5)
    assert found.by_signed_score == pytest.approx(curves[False], abs=1e-4)
    assert curves[False] != pytest.approx(curves[True], abs=1e-3)
    assert (found.edges, found.n) == (len(whole.edges), 3)
    # For a mean over prompts the jackknife is the standard error of the mean.
    signed = [evaluator.cut(whole.prune(size=int(s * len(whole.edges)), signed=True)) for s in FRACTIONS]
    each = torch.trapezoid(evaluator.scaled(torch.stack(signed)), torch.tensor(FRACTIONS)[:, None], dim=0)
    assert found.cpr_standard_error == pytest.approx(float(each.std() / 3**0.5), rel=1e-3)


def test_signed_pruning_keeps_what_works_for_the_answer() -> None:
    model = model_of("gpt2")
    for direction in ("denoise", "noise"):
        task = random_task(direction=direction)
        whole = Circuit.from_edges(attribute_edges(model, task, method="path-patching"))
        sign = 1 if direction == "denoise" else -1
        best = whole.prune(size=10, signed=True, dangling=True)
        rest = [sign * score for edge, score in whole.edges.items() if edge not in best.edges]
        assert min(sign * score for score in best.edges.values()) >= max(rest)
        assert len(whole.prune(threshold=-1e9, signed=True, dangling=True).edges) == len(whole.edges)
        kept = whole.prune(threshold=0.01, signed=True, dangling=True)
        assert kept.edges == {edge: s for edge, s in whole.edges.items() if sign * s >= 0.01}
    removed = Circuit.from_edges(attribute_edges(model, random_task(direction="noise"), method="acdc", threshold=1e-3))
    assert removed.gains() == removed.edges  # a cost of removal, whatever the direction


def test_what_the_recipe_does_not_cover_is_refused() -> None:
    task = random_task()
    model = model_of("gpt2")
    whole = Circuit.from_edges(attribute_edges(model, task, method="eap"))
    with pytest.raises(ValueError, match="ablation='resample', not 'zero'"):
        mib_areas(Evaluator(model, task, ablation="zero"), whole)
    with pytest.raises(ValueError, match=r"the recipe ranks all \d+ edges of the model; \d+ have no score"):
        mib_areas(Evaluator(model, task), whole.prune(size=20))
    shared = model_of("llama")
    with pytest.raises(ValueError, match=r"4 heads of this model share 2 keys.*circuits\.mib\.ungroup\(model\)"):
        mib_areas(Evaluator(shared, task), Circuit.from_edges(attribute_edges(shared, task, method="eap")))
    normed = ungroup(model_of("gemma2"))
    with pytest.raises(ValueError, match="through the norm behind attention"):
        mib_areas(Evaluator(normed, task), Circuit.from_edges(attribute_edges(normed, task, method="eap")))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_files_of_the_benchmark(family: str, tmp_path) -> None:
    model, task = ungroup(model_of(family)), random_task(direction="noise")
    whole = Circuit.from_edges(attribute_edges(model, task, method="eap"))
    small = whole.prune(size=25)
    path = write_mib(small, tmp_path / "circuit.json", model=model, whole=whole)
    shown = json.loads(path.read_text())
    parallel = family == "gpt_neox"
    assert shown["cfg"] == {"n_layers": LAYERS, "n_heads": HEADS, "parallel_attn_mlp": parallel, "d_model": 32}
    # As many edges as the benchmark's Graph.from_model makes.
    before = [1 + layer * (HEADS + 1) for layer in range(LAYERS)]
    mlps = sum(b + (0 if parallel else HEADS) for b in before)
    assert len(shown["edges"]) == 3 * HEADS * sum(before) + mlps + 1 + LAYERS * (HEADS + 1)
    assert set(shown["nodes"]) == {"input", "logits"} | {
        name for layer in range(LAYERS) for name in [f"m{layer}", *(f"a{layer}.h{h}" for h in range(HEADS))]
    }
    assert shown["edges"]["input->a1.h2<q>"]["score"] == -whole.edges["embed", "a1.h2.q"]
    assert sum(edge["in_graph"] for edge in shown["edges"].values()) == len(small.edges)
    back, all_back = read_mib(path), read_mib(path, whole=True)
    assert back.edges == small.gains()
    assert all_back.gains() == whole.gains()
    assert set(back.nodes) == set(small.nodes)
    evaluator = Evaluator(model, task)
    assert evaluator.evaluate(back).faithfulness == evaluator.evaluate(small).faithfulness
    assert mib_areas(evaluator, all_back).cpr == pytest.approx(mib_areas(evaluator, whole).cpr, abs=1e-6)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("input->a9.h0<q>", "'a9.h0' is no part of a model of 2 layers of 2 heads"),
        ("input->a0.h2<q>", "is no part"),
        ("m1->m0", "is no edge"),
        ("m0->a0.h1<q>", "is no edge"),
        ("a0.h0->a1.h1<x>", "is no edge"),
        ("a0.h0->a1.h1", "is no edge"),
        ("a0.h0->m1<q>", "is no edge"),
        ("logits->logits", "is no edge"),
        ("m0->input", "is no part"),
        ("m0->embed", "is no edge"),
        ("m0", "is no"),
        ("x0->logits", "is no part"),
        ("m٣->logits", "is no part"),
        ("m00->logits", "is no part"),
    ],
)
def test_files_that_do_not_hold_together(edge: str, message: str, tmp_path) -> None:
    path = tmp_path / "circuit.json"
    good = {
        "cfg": {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 4},
        "nodes": {"input": {"in_graph": True}},
        "edges": {"a1.h0->m1": {"score": 1, "in_graph": True}},
    }
    path.write_text(json.dumps(good))
    assert read_mib(path).edges == {("a1.h0", "m1"): 1.0}
    path.write_text(json.dumps(good | {"edges": {edge: {"score": 1, "in_graph": True}}}))
    with pytest.raises(ValueError, match=message):
        read_mib(path)


def test_other_files_are_refused(tmp_path) -> None:
    path = tmp_path / "circuit.json"
    cfg = {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False}
    for text, message in (
        ("{}", "it lacks 'cfg'"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({"cfg": cfg | {"n_layers": math.inf}, "nodes": {}, "edges": {}}), "OverflowError"),
        (json.dumps({"cfg": cfg, "nodes": {}, "edges": {"m0->m1": {"score": 10**400, "in_graph": True}}}), "Overflow"),
        (json.dumps({"cfg": cfg, "nodes": {}, "edges": {"m0->m1": {"score": 1.0, "in_graph": 1}}}), "true or false"),
        (json.dumps({"cfg": cfg, "nodes": {"m0": {"neurons": [True]}}, "edges": {}}), "single neurons"),
        (json.dumps({"cfg": cfg, "nodes": {}, "edges": {"m0->m1": {"score": math.nan, "in_graph": True}}}), "is nan"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_mib(path)
    for missing in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(ValueError, match="is not a circuit of the MIB benchmark"):
            read_mib(missing)
    model = model_of("llama")
    scores = circuits.attribute(model, random_task(), nodes="edges", method="eap")
    with pytest.raises(ValueError, match=r"MIB's files have them for each head: score circuits\.mib\.ungroup"):
        write_mib(Circuit.from_edges(scores), path, model=model)
