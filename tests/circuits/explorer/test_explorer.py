"""The explorer from Python: its state and history, what the browser is told, and what running the model gives."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits import Circuit, Evaluator, Explorer, attribute, attribute_edges, attribute_features
from circuits.attribution.features import FeatureCircuit
from circuits.explorer.graph import graph_of_circuit, part_of
from circuits.explorer.interventions import Interventions
from circuits.explorer.positions import unfold
from circuits.features.edges import feature_edges
from tests.circuits.attribution.test_families import WITHOUT_MLP
from tests.circuits.features.test_features import sae_at
from tests.circuits.pairs import DIFFERS_AT, LENGTH, WIRED, model_of, precise, random_task
from tests.circuits.test_circuit import by_hand
from tests.tiny_models import CONFIGS, cases


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    model, task = model_of("gpt2"), random_task()
    edges = attribute_edges(model, task.replace(direction="noise"))
    return Explorer(Circuit.from_edges(edges).prune(size=40), model=model, task=task, view="summed")


def browser_says(explorer: Explorer, **state: Any) -> None:
    """The message that a front end sends when somebody clicked."""
    explorer._handle_msg({"content": {"data": {"method": "update", "state": state, "buffer_paths": []}}, "buffers": []})


def test_what_is_drawn() -> None:
    explorer = Explorer(by_hand())
    graph = explorer.graphs["summed"]
    assert graph["rows"] == ["embed", "0 heads", "0 MLP", "1 MLP", "logits"]
    assert graph["columns"] == ["head 0", "head 1", "MLP"]
    where = {node["id"]: (node["row"], node["column"]) for node in graph["nodes"]}
    assert where == {
        "embed": (0, None),
        "a0.h0": (1, 0),
        "a0.h1": (1, 1),
        "m0": (2, 2),
        "m1": (3, 2),
        "logits": (4, None),
    }
    assert {"source": "embed", "target": "a0.h0", "reader": "v", "score": 3.0} in graph["edges"]
    assert explorer.metric == ""


def test_larger_graphs_show_their_strongest_parts() -> None:
    less = graph_of_circuit(by_hand()).strongest(nodes=3, edges=1)
    assert set(less.parts) == {"embed", "logits", "a0.h0"}
    assert [link.score for link in less.links] == [3.0]
    assert less.note == "The strongest 3 of 6 nodes and 1 of 6 edges."


def test_one_history_for_python_and_the_browser() -> None:
    explorer = Explorer(by_hand())
    explorer.selection = ["m0"]
    explorer.group("early", ["a0.h0", "a0.h1"])
    before = explorer.past
    browser_says(explorer, selection=["m0", "m1"], past=[*before, {**explorer._snapshot()}], future=[])
    assert explorer.selection == ["m0", "m1"]
    assert len(explorer.past) == 3  # the browser's own step, not counted twice
    explorer.undo()
    assert (explorer.selection, explorer.groups) == (["m0"], {"early": ["a0.h0", "a0.h1"]})
    explorer.undo()
    assert (explorer.selection, explorer.groups) == (["m0"], {})
    explorer.undo()
    explorer.undo()
    assert explorer.selection == []
    explorer.redo()
    explorer.redo()
    assert explorer.groups == {"early": ["a0.h0", "a0.h1"]}
    explorer.threshold = 2.0
    assert explorer.future == []
    explorer.undo()
    assert explorer.threshold == 0.0


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    explorer = Explorer(by_hand())
    explorer.selection = ["m1"]
    for name, value, message in (
        ("selection", ["m9"], "'m9' is not a node of this graph; it has embed, a0.h0"),
        ("pinned", ["nobody"], "'nobody' is not a node"),
        ("groups", {"x": ["m0"], "y": ["m0"]}, "m0 is in the groups 'x' and 'y'"),
        ("groups", {"m1": ["m0"]}, "needs a name that no node has"),
        ("groups", {"x": []}, "one member or more"),
        ("view", "position", "view is 'position'; this explorer has summed"),
    ):
        with pytest.raises(ValueError, match=message):
            setattr(explorer, name, value)
    assert (explorer.selection, explorer.pinned, explorer.groups, explorer.view) == (["m1"], [], {}, "summed")
    with pytest.raises(ValueError, match=r"pass model=… and task=…"):
        explorer.measure(["m1"])
    with pytest.raises(ValueError, match="details need the model"):
        explorer.detail("m1")
    for arguments, message in (
        ({"shown": by_hand(), "model": object()}, "model and task belong together"),
        ({"shown": by_hand(), "edges": {}}, "a Circuit carries its own"),
        ({"shown": {}}, "there are no scores to show"),
        ({"shown": "circuit.json"}, "not str"),
        ({"shown": FeatureCircuit(features={}, errors={})}, "pass scores="),
    ):
        with pytest.raises(ValueError, match=message):
            Explorer(arguments.pop("shown"), **arguments)


def test_the_browser_asks_for_a_detail(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(explorer, "send", sent.append)

    def ask(node: str, prompt: int) -> dict[str, Any]:
        content = {"kind": "detail", "node": node, "prompt": prompt}
        explorer._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        return sent.pop()

    found = ask("a1.h2", 1)
    assert [section["kind"] for section in found["sections"]][:2] == ["attention", "attention"]
    model, task = explorer._model, explorer._task
    pattern = model(task.clean[1:], output_attentions=True).attentions[1][0, 2]
    torch.testing.assert_close(torch.tensor(found["sections"][0]["values"]), pattern.detach(), atol=6e-3, rtol=6e-3)
    assert ask("a1.h2", 7)["error"] == "prompt 7 is not one of the task's 0 to 1"
    assert "is not a node" in ask("<b>", 0)["error"]
    assert ask("logits", 0)["sections"][0]["top"][-1] == _most_likely(model(task.clean[:1]).logits[0, -1])


def _most_likely(logits: torch.Tensor) -> list[tuple[str, float]]:
    values, ids = logits.softmax(-1).topk(3)
    return [(f"[{i}]", float(f"{v:.3g}")) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def test_the_selection_is_measured_by_running_the_model(explorer: Explorer) -> None:
    """Through the messages of a front end; against the exact effects of ``attribute``, which runs other code."""
    model, task = explorer._model, explorer._task
    browser_says(explorer, selection=["a1.h2"])
    exact = attribute(model, task.replace(direction="noise"), nodes="heads", method="patching", by_position=False)
    assert explorer.measured["value"] == pytest.approx(1 + float(exact.values[1, 2]), abs=1e-4)
    assert explorer.metric.startswith("logit_difference")
    browser_says(explorer, experiment={"to": "clean", "within": "model"}, selection=["m0"])
    exact = attribute(model, task, nodes="mlp_out", method="patching", by_position=False)
    assert explorer.measured["value"] == pytest.approx(float(exact.values[0]), abs=1e-4)
    browser_says(explorer, experiment={"to": "mean", "within": "circuit"}, selection=["m0"])
    assert isinstance(explorer.circuit, Circuit)
    expected = Evaluator(model, task, ablation="mean").evaluate(explorer.circuit.without_nodes(["m0"])).faithfulness
    assert explorer.measured["value"] == pytest.approx(expected, abs=1e-5)
    explorer.threshold = 1e9  # nothing is shown any more
    assert explorer.measured["value"] == pytest.approx(0, abs=1e-4)
    explorer.experiment = {"to": "clean", "within": "circuit"}
    assert explorer.metric == "within a circuit, nodes are ablated by resample, mean, zero, not set to 'clean'"
    assert explorer.measured["failed"]
    explorer.threshold, explorer.selection = 0.0, []


@pytest.mark.parametrize(
    "family", cases(case for case in CONFIGS if case not in WITHOUT_MLP)
)  # whose MLPs have no place
def test_setting_parts(family: str) -> None:
    """All parts of a stage set is the other run; two at once, in different layers, are where the second one is kept."""
    model, task = model_of(family), random_task()
    lab = Interventions(model, task)
    assert lab.measure([]).value == pytest.approx(1, abs=1e-5)
    assert lab.measure([], to="clean").value == pytest.approx(0, abs=1e-5)
    assert lab.measure([part_of("embed", 0.0)]).value == pytest.approx(0, abs=1e-4)
    by_position = [part_of("embed", 0.0, position=p) for p in range(LENGTH)]
    assert lab.measure(by_position).value == pytest.approx(0, abs=1e-4)
    assert lab.measure(by_position[:DIFFERS_AT]).value == pytest.approx(1, abs=1e-5)
    writers = [
        part_of(name, 0.0)
        for layer in range(model.config.num_hidden_layers)
        for name in (f"m{layer}", *(f"a{layer}.h{h}" for h in range(4)))
    ]
    everything = lab.measure([part_of("embed", 0.0), *writers], to="clean")
    assert everything.value == pytest.approx(1, abs=1e-4)
    assert everything.n == 2
    with pytest.raises(ValueError, match="logits cannot be set"):
        lab.measure([part_of("logits", 0.0)])
    with pytest.raises(ValueError, match="can be set to resample, mean, zero, clean, not to 'noise'"):
        lab.measure([], to="noise")


SHARE_A_NORM = ("olmo2", "olmo3", "olmoe")
"""Whose heads have one norm of queries, and one of keys."""


@pytest.mark.parametrize("family", cases(family for family in WIRED if family not in SHARE_A_NORM))
def test_unfolded_links_sum_to_their_edge(family: str) -> None:
    model, task = precise(family), random_task(direction="noise")
    options = {"method": "relp", "rules": "no_ah"} if family == "gemma2" else {"method": "eap"}
    circuit = Circuit.from_edges(attribute_edges(model, task, **options)).prune(size=60, dangling=True)
    graph = unfold(model, task, circuit, least=0.0)
    found: dict[tuple[str, str, str], float] = defaultdict(float)
    for link in graph.links:
        source, target = (graph.parts[end] for end in (link.source, link.target))
        assert source.position is not None
        assert target.position is not None
        assert source.position <= target.position
        assert link.reader in ("k", "v") or source.position == target.position
        # Heads that share a key or value: its edge is the sum over them.
        owner = link.target.split("@")[0] if link.reader not in ("k", "v") else f"a{target.layer}"
        found[link.source.split("@")[0], owner, link.reader] += link.score
    expected: dict[tuple[str, str, str], float] = defaultdict(float)
    for (u, v), score in circuit.edges.items():
        part = v.rsplit(".", 1)[-1] if v.endswith((".q", ".k", ".v")) else ""
        owner = v if not part else v.split(".")[0] if part in ("k", "v") else v.rsplit(".", 1)[0]
        expected[u, owner, part] += score
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    nodes: dict[str, float] = defaultdict(float)
    for part in graph.parts.values():
        nodes[part.id.split("@")[0]] += part.score
    assert nodes["a1.h2"] == pytest.approx(circuit.nodes["a1.h2"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("family", SHARE_A_NORM)
def test_positions_are_refused_where_heads_share_a_norm_of_queries_and_keys(family: str) -> None:
    model, task = model_of(family), random_task()
    circuit = Circuit.from_edges(attribute_edges(model, task, method="eap")).prune(size=10)
    with pytest.raises(ValueError, match=r"cannot unfold by position .*: one norm goes over the queries"):
        unfold(model, task, circuit)


def test_views_of_one_circuit(explorer: Explorer) -> None:
    explorer.view = "position"
    graph = explorer.graphs["position"]
    assert graph["by_position"]
    assert len(graph["columns"]) == LENGTH
    node = next(node for node in graph["nodes"] if node["id"].startswith("m0@"))
    assert node["column"] == node["position"] >= DIFFERS_AT
    explorer.experiment = {"to": "resample", "within": "circuit"}
    explorer.selection = [node["id"]]
    assert "summed over positions" in explorer.metric
    explorer.experiment = {"to": "resample", "within": "model"}
    assert "failed" not in explorer.measured
    explorer.selection, explorer.view = [], "summed"


def test_features_of_saes() -> None:
    model, task = model_of("gpt2"), random_task()
    saes = [sae_at(site, dtype=torch.float32) for site in ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_post")]
    scores = attribute_features(model, task, saes, method="atp")
    circuit = FeatureCircuit.above(scores, 0.05)
    edges = feature_edges(model, task, saes, circuit)
    explorer = Explorer(circuit, scores=scores, edges=edges, model=model, task=task, saes=saes)
    graph = explorer.graphs["position"]
    assert len(graph["nodes"]) == circuit.size
    assert graph["rows"] == ["0 MLP", "1 resid_post"]
    assert len(graph["edges"]) == len(edges)
    site, position, feature, _ = next(top for top in scores.top(50) if top[2] is not None)
    name = f"{site}/{feature}@{position}"
    kinds = [section["kind"] for section in explorer.detail(name)]
    assert kinds[:3] == ["passage", "passage", "heading"]
    assert "logits" in kinds
    exact = attribute_features(model, task.replace(direction="noise"), saes, method="patching")
    one = explorer.measure([name])
    assert one.value == pytest.approx(1 + float(exact.features[site][position, feature]), abs=1e-4)
    explorer.experiment = {"to": "mean", "within": "circuit"}
    explorer.selection = [name]
    assert explorer.metric.startswith("faithfulness")


def test_scores_of_nodes() -> None:
    model, task = model_of("llama"), random_task()
    scores = attribute(model, task, nodes=["resid_pre", "z"], method="atp")
    explorer = Explorer(scores, model=model, task=task, tokenizer=None)
    graph = explorer.graphs["position"]
    assert graph["edges"] == []
    assert graph["rows"] == ["0 resid_pre", "0 heads", "1 resid_pre", "1 heads", "2 resid_pre", "2 heads"]
    exact = attribute(model, task, nodes="resid_pre", method="patching")
    assert explorer.measure(["resid_pre.1@4"], to="clean").value == pytest.approx(float(exact.values[1, 4]), abs=1e-4)
    lens = explorer.detail("resid_pre.1@4")[0]
    stream = model(task.clean[:1], output_hidden_states=True).hidden_states[1]
    assert lens["top"][4] == _most_likely(model.lm_head(model.model.norm(stream))[0, 4])
    summed = attribute(model, task, nodes="z", method="atp", by_position=False)
    assert Explorer(summed).graphs["summed"]["columns"][:2] == ["head 0", "head 1"]


def test_saved_pages_hold_details_and_the_worth_of_each_node(explorer: Explorer, tmp_path: Path) -> None:
    text = explorer.save(tmp_path / "page.html", details=4).read_text()
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in text  # nothing is fetched
    saved = explorer.saved(details=4)
    kept = [name for name in saved["measured"] if "@" not in name]
    assert set(kept) < set(saved["details"]) == {*kept, "logits"} | {n for n in saved["details"] if "@" in n}
    assert saved["measured"][kept[-1]]["value"] == pytest.approx(explorer.measure(kept[-1:]).value)
    assert saved["nothing"]["value"] == pytest.approx(1, abs=1e-5)
