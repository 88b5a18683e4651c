"""Measured edges: direct ones are the edges, sums over paths are a model of transcoders, verdicts are intervals."""

import numpy as np
import pytest
import torch

from circuits import Task
from circuits.graphs import Difference, attribution_graph, measure
from circuits.graphs.graph import ERROR, LATENT, TARGET, TOKEN
from circuits.graphs.measured.prompts import verdict
from saes import ReLU, TopK
from tests.circuits.graphs.sets import LENGTH, precise, prompt, random_set
from tests.tiny_models import VOCAB


@pytest.fixture(scope="module")
def measured():
    """On prompts of which one token differs."""
    rows = prompt().repeat(8, 1)
    rows[1:, 2] = torch.arange(40, 47)
    task = Task(
        clean=rows, corrupt=rows.roll(1, 1), correct=torch.arange(10, 18), wrong=torch.arange(20, 28)
    )  # fmt: skip
    model = precise("gpt2")
    graph = attribution_graph(
        model, rows[0], random_set("clt", activation=TopK(4)), targets=[Difference(10, 20), 10, 3]
    )
    return graph, task, measure(graph.prune(), prompts=task)


def test_direct_effects_are_the_edges(measured) -> None:
    graph, _, found = measured
    assert {TOKEN, ERROR, LATENT} == set(graph.nodes.kind[found.source])
    assert set(graph.nodes.kind[found.target]) == {LATENT, TARGET}
    np.testing.assert_allclose(found.effects["direct"], found.predicted, atol=1e-10)
    np.testing.assert_array_equal(
        found.predicted, [graph.adjacency[t, s] for s, t in zip(found.source, found.target, strict=True)]
    )
    assert np.abs(found.effects["live"] - found.predicted).max() > 1e-3
    same = found.agreement("direct")
    assert (same.n, same.correlation, same.slope) == (len(found), pytest.approx(1), pytest.approx(1))


def with_less(model, places: dict[torch.nn.Module, torch.Tensor], position: int) -> torch.Tensor:
    """Last logits where vectors are taken from outputs of modules at one position."""

    def less(module, _args, output):
        changed = output.clone()
        changed[:, position] -= places[module]
        return changed

    handles = [module.register_forward_hook(less) for module in places]
    with torch.no_grad():
        logits = model(prompt()[None]).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("kind", [TOKEN, ERROR, LATENT])
def test_live_effects_are_those_of_a_hooked_model(measured, kind: int) -> None:
    """A source of each kind taken out by hooks on the model itself."""
    graph, _, found = measured
    model, n, made = graph.source.model, graph.nodes, random_set("clt", activation=TopK(4))
    mlps = [block.mlp for block in model.transformer.h]
    difference = len(graph) - 3
    edge = max(np.flatnonzero((n.kind[found.source] == kind) & (found.target == difference)))
    s = int(found.source[edge])
    layer, position = int(n.layer[s]), int(n.position[s])
    seen: dict[torch.nn.Module, tuple] = {}
    handles = [mlp.register_forward_hook(lambda m, a, y: seen.update({m: (a[0][0], y[0])})) for mlp in mlps]
    clean = with_less(model, {}, 0)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        if kind == TOKEN:
            places = {model.transformer.wte: model.transformer.wte.weight[prompt()[position]]}
        elif kind == LATENT:
            value, part = graph.pre_activation[s], made.parts[layer]
            places = {mlps[layer + i]: value * part.at_place(i)[n.index[s]] for i in range(3 - layer)}
        else:
            parts = list(made.parts)[: layer + 1]
            latents = [part.encode(seen[mlp][0][position]).to_dense() for part, mlp in zip(parts, mlps, strict=False)]
            written = [its @ part.at_place(layer - i) for i, (its, part) in enumerate(zip(latents, parts, strict=True))]
            places = {mlps[layer]: seen[mlps[layer]][1][position] - sum(written) - made.parts[layer].b_dec}
    after = with_less(model, places, position)
    expected = float((clean[10] - clean[20]) - (after[10] - after[20]))
    assert found.effects["live"][edge] == pytest.approx(expected, abs=1e-10)
    assert abs(expected) > 1e-6


def test_totals_are_sums_over_all_paths() -> None:
    """Against repeated propagation in a dense matrix: latents answer with slope 1."""
    graph = attribution_graph(precise("gpt2"), prompt(), random_set(activation=ReLU()), targets=[3, 9])
    found = measure(graph.prune(nodes=0.5, edges=0.5), modes=["direct"], null=False)
    dense = graph.adjacency.toarray()
    latents = graph.mask(LATENT)
    per_unit = np.where(latents, dense / np.where(latents, graph.pre_activation, 1.0), 0.0)
    for s in np.unique(found.source):
        total = step = dense[:, s]
        for _ in range(4):
            step = per_unit @ step
            total = total + step
        mine = found.source == s
        np.testing.assert_allclose(found.total[mine], total[found.target[mine]], atol=1e-10)
    assert np.abs(found.total - found.predicted).max() > 1e-3


def key(graph, number: int) -> tuple[int, ...]:
    """What a node is, whatever its number in a graph and the text at its position; a target its place among them."""
    n = graph.nodes
    if n.kind[number] == TARGET:
        return (TARGET, number - len(graph))
    return (n.kind[number], n.layer[number], n.position[number], n.index[number] if n.kind[number] == LATENT else 0)


def test_replication_counts_prompts_by_hand(measured) -> None:
    """Each other prompt's own graph holds the edge or not; its live effect is measured there too."""
    graph, task, found = measured
    again, made = found.replication, random_set("clt", activation=TopK(4))
    assert again.prompts == 7
    effects: dict[tuple, list[float]] = {}
    for row in range(1, 8):
        answers = [Difference(10 + row, 20 + row), 10 + row, 3]
        other = attribution_graph(graph.source.model, task.clean[row], made, targets=answers)
        whole = measure(other.prune(nodes=1.0, edges=1.0), modes=["live"], null=False)
        for s, t, effect in zip(whole.source, whole.target, whole.effects["live"], strict=True):
            effects.setdefault((key(other, s), key(other, t)), []).append(effect)
    counts = []
    for i, (s, t) in enumerate(zip(found.source, found.target, strict=True)):
        values = effects.get((key(graph, s), key(graph, t)), [])
        counts.append(len(values))
        # Edges of nothing, which other graphs do not list, are still active there.
        assert again.active[i] >= len(values)
        if again.active[i] == len(values):
            assert again.same_sign[i] == sum(np.sign(v) == np.sign(found.predicted[i]) for v in values)
        if again.active[i] == len(values) > 1:
            assert again.mean[i] == pytest.approx(np.mean(values), abs=1e-10)
            assert again.standard_error[i] == pytest.approx(np.std(values, ddof=1) / len(values) ** 0.5, abs=1e-10)
    assert (again.active == counts).mean() > 0.9
    assert max(counts) == 7
    assert min(again.active) < 7
    shares = [again.share(name) for name in ("replicates", "this prompt only", "contradicted")]
    assert sum(shares) == pytest.approx(1)
    assert min(shares[:2]) > 0


def test_verdicts_are_intervals() -> None:
    """Student's t for 9 degrees of freedom at 95 %: 2.262."""
    assert verdict(10, 2.27, 1.0) == "replicates"
    assert verdict(10, 2.25, 1.0) == "this prompt only"
    assert verdict(10, -2.25, 1.0) == "this prompt only"
    assert verdict(10, -2.27, 1.0) == "contradicted"
    assert verdict(2, 100.0, 1.0) == "this prompt only"


def test_the_null_is_of_latents_outside_the_graph(measured) -> None:
    graph, _, found = measured
    sources = found.source[graph.nodes.kind[found.source] == LATENT]
    assert found.null is not None
    assert found.null.shape == (len(np.unique(sources)), len(np.unique(found.target)))
    ends = np.unique(found.target)
    over = found.null.abs().numpy().max(0)[np.searchsorted(ends, found.target)]
    signed = found.effects["live"] * np.sign(found.predicted)
    assert found.above_null[signed > over].all()
    assert not found.above_null[signed <= 0].any()
    assert (signed <= -over).any()
    alone = np.isnan(found.null_bound)
    np.testing.assert_array_equal(found.above_null[alone], signed[alone] > 0)
    assert (graph.nodes.layer[found.target[np.isnan(found.null_bound)]] == 0).all()
    assert 0 < found.above_null.mean() < 1
    np.testing.assert_array_equal(found.holds, found.above_null & (np.array(found.replication.verdict) == "replicates"))


def test_forwards_are_counted(measured) -> None:
    """One a source and mode, one a matched latent, those of other prompts where the source is active, and two runs of
    each prompt as it is."""
    graph, task, found = measured
    model = graph.source.model
    passes = 0

    def count(_module, args, kwargs):
        nonlocal passes
        passes += len(kwargs["input_ids"])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    again = measure(graph.prune(), prompts=task, rows=5)
    handle.remove()
    assert passes == again.forwards == found.forwards
    np.testing.assert_allclose(again.effects["live"], found.effects["live"], atol=1e-12)


def test_a_measurement_is_plain_data(measured) -> None:
    _, _, found = measured
    data = found.to_json()
    assert len(data["edges"]) == len(found)
    assert {"source", "target", "predicted", "total", *found.effects, "above_null", "replication"} == set(
        data["edges"][0]
    )
    table = found.table()
    assert sum(row[2].n for row in table) == len(found)
    assert {row[0] for row in table} == set(found.kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["frozen"]}, "mode 'frozen' is not one of"),
        ({"rows": 0}, "rows is 0"),
        ({"prompts": [prompt(length=LENGTH + 1)]}, "prompt 0 has 8 tokens"),
        ({"prompts": [prompt()]}, "no prompt but the graph's own"),
    ],
)
def test_what_does_not_fit_is_refused(measured, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(measured[0].prune(), **options)


def test_vocabulary_is_large_enough_for_these_tests() -> None:
    assert VOCAB > 47
