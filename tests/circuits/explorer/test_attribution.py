"""The explorer of attribution graphs from Python: what the browser is told, interventions, the state of the view."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from circuits import GraphExplorer, attribution_graph
from circuits.explorer.attribution_data import held_before
from circuits.graphs import LatentChange, measure, read_neuronpedia
from circuits.graphs.graph import LATENT, TARGET
from saes.features.examples import Text, top_examples
from tests.circuits.explorer.test_explorer import browser_says
from tests.circuits.graphs.sets import precise, prompt, random_set


@pytest.fixture(scope="module")
def graph() -> Any:
    return attribution_graph(precise("gpt2"), prompt(), random_set(), targets=[3, 4])


def ids_of(explorer: GraphExplorer, kind: str) -> list[str]:
    return [node["id"] for node in explorer.graphs["position"]["nodes"] if node["kind"] == kind]


def test_the_share_before_a_node_says_which_stay() -> None:
    influence = np.array([1.0, 4.0, 0.0, 2.0, 2.0, 1.0])
    assert held_before(influence).tolist() == [0.8, 0.0, 1.0, 0.4, 0.4, 0.8]


def test_what_is_sent_is_more_than_what_is_drawn(graph: Any) -> None:
    pruned = graph.prune(nodes=0.6, edges=0.9)
    explorer = GraphExplorer(pruned)
    data = explorer.graphs["position"]
    numbers = {explorer._numbers[node["id"]] for node in data["nodes"]}
    assert set(pruned.kept.tolist()) < numbers
    assert data["rows"] == ["tokens", "layer 0", "layer 1", "layer 2", "output"]
    weights = {(data["nodes"][s]["id"], data["nodes"][t]["id"]): weight for s, t, weight in data["links"]}
    for source, target, weight in pruned.links:
        ends = tuple(next(i for i, n in explorer._numbers.items() if n == end) for end in (source, target))
        assert weights[ends] == pytest.approx(weight, rel=1e-7)
    sent = np.array(sorted(numbers))
    assert len(weights) == np.count_nonzero(graph.adjacency.toarray()[np.ix_(sent, sent)])
    sizes = [node["size"] for node in data["nodes"] if node["kind"] == "latent"]
    assert max(sizes) == pytest.approx(1.0, abs=1e-4) or graph.nodes.value[graph.mask(LATENT)].argmax() not in numbers
    assert np.array_equal(explorer.shown().kept, pruned.kept)
    assert (explorer.shown().edges != pruned.edges).nnz == 0


def test_pins_bring_nodes_and_the_edges_between_them(graph: Any) -> None:
    explorer = GraphExplorer(graph.prune(nodes=0.3, edges=0.5))
    plain = explorer.shown()
    target, source = next(
        (t, s) for t, s in zip(*graph.adjacency.nonzero(), strict=True)
        if s not in plain.kept and t not in plain.kept and graph.influence[s] > 0
    )  # fmt: skip
    names = {number: name for name, number in explorer._numbers.items()}
    explorer.pinned = [names[target], names[source]]
    shown = explorer.shown()
    assert set(shown.kept) == {*plain.kept, target, source}
    assert shown.edges[target, source] == graph.adjacency[target, source]
    assert shown.edges.nnz == plain.edges.nnz + 1


@pytest.mark.parametrize("how", ["set", "scale", "add"])
def test_the_browser_changes_latents(graph: Any, how: str) -> None:
    """In the mode direct targets move as the edges say; in the others as the graph's own interventions do."""
    explorer = GraphExplorer(graph)
    chosen = ids_of(explorer, "latent")[:2]
    browser_says(explorer, selection=chosen)
    nodes = [graph.node(explorer._numbers[name]) for name in chosen]
    changes = [LatentChange(node.layer, node.index, 0.5, how, node.position) for node in nodes]
    for mode in ("direct", "frozen_attention", "live"):
        content = {"kind": "intervene", "how": how, "mode": mode, "value": 0.5}
        explorer._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        rows = explorer.measured["rows"]
        assert [row[0] for row in rows] == list(graph.target_names)
        targets = graph.mask(TARGET)
        assert [row[1] for row in rows] == pytest.approx(graph.predict(changes)[targets].tolist())
        assert [row[2] for row in rows] == pytest.approx(graph.intervene(changes, mode=mode).change[targets].tolist())
        if mode == "direct":
            assert [row[2] for row in rows] == pytest.approx([row[1] for row in rows], abs=1e-9)
        assert explorer.measured["tokens"][0][1] == pytest.approx(
            float(graph.intervene(changes, mode=mode).logits.softmax(-1).max())
        )


def test_what_cannot_be_changed_is_said(graph: Any, tmp_path: Path) -> None:
    explorer = GraphExplorer(graph)
    latent, token = ids_of(explorer, "latent")[0], ids_of(explorer, "token")[0]
    for nodes, options, message in (
        ([token], {}, "is no latent: only latents can be changed"),
        ([latent], {"mode": "frozen"}, "mode 'frozen' is not one of direct"),
        ([latent], {"how": "double"}, "how is 'double'; latents are changed by set, scale, add"),
        ([latent], {"value": float("nan")}, "value is nan"),
        (["9_9_9"], {}, "'9_9_9' is not a node of this explorer"),
        ([], {}, "changes is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            explorer.intervene(nodes, **options)
    explorer.node_threshold = 1.0
    assert explorer.node_threshold == explorer.about["shares"] < 1
    assert set(explorer.shown().kept.tolist()) <= set(explorer._sent.values())
    explorer.selection = [token]
    explorer._answer(None, {"kind": "intervene", "how": "set", "mode": "live", "value": 0}, None)
    assert explorer.measured["failed"]
    assert "is no latent" in explorer.measured["words"]
    with pytest.raises(ValueError, match=r"threshold is 1\.2; it is a share"):
        explorer.threshold = 1.2
    with pytest.raises(ValueError, match=r"shown is a dict; it is an attribution graph"):
        GraphExplorer({})
    with pytest.raises(ValueError, match="labels names node 99999"):
        GraphExplorer(graph, labels={99999: "x"})
    other = attribution_graph(precise("gpt2"), prompt(seed=5), random_set(), targets=[3])
    with pytest.raises(ValueError, match="of another graph"):
        GraphExplorer(graph, measurement=measure(other.prune(), modes=["direct"], null=False))
    path = GraphExplorer(graph).write_neuronpedia(tmp_path / "graph.json", slug="x")
    with pytest.raises(ValueError, match="no model at hand"):
        GraphExplorer(read_neuronpedia(path)).intervene([latent])


def test_the_view_goes_through_text_and_files_both_ways(graph: Any, tmp_path: Path) -> None:
    explorer = GraphExplorer(graph.prune(nodes=0.7))
    latents = ids_of(explorer, "latent")
    explorer.pinned, explorer.selection = latents[-2:], [latents[0]]
    explorer.group("names", latents[1:3])
    explorer.threshold = 0.9
    text = json.dumps(explorer.view_state)
    again = GraphExplorer(graph)
    again.restore(text)
    assert again.view_state == explorer.view_state
    again.undo()
    assert again.pinned == []
    path = explorer.write_neuronpedia(
        tmp_path / "graph.json", slug="here", labels={explorer._numbers[latents[0]]: "first"}
    )
    file = json.loads(path.read_text())
    assert file["qParams"]["pinnedIds"] == explorer.pinned
    assert file["qParams"]["supernodes"] == [["names", *latents[1:3]]]
    assert {node["node_id"] for node in file["nodes"]} >= {*explorer.pinned, *latents[1:3]}
    read = GraphExplorer(read_neuronpedia(path))
    assert (read.pinned, read.groups, read.selection) == (explorer.pinned, explorer.groups, explorer.selection)
    first = next(node for node in read.graphs["position"]["nodes"] if node["id"] == latents[0])
    assert first["text"] == "first"
    assert len(read.graphs["position"]["links"]) == len(file["links"])


def test_another_tools_view_is_shown_as_far_as_it_fits(graph: Any, tmp_path: Path) -> None:
    """A node in two supernodes, two of one name, one of nodes that are gone, and a pin of such a node."""
    path = GraphExplorer(graph.prune(nodes=0.5)).write_neuronpedia(tmp_path / "graph.json", slug="here")
    file = json.loads(path.read_text())
    a, b, c = [node["node_id"] for node in file["nodes"]][:3]
    view = {"pinnedIds": [a, "gone"], "supernodes": [["x", a, b], ["x", b, c], ["y", "gone"]], "clickedId": "gone"}
    path.write_text(json.dumps(file | {"qParams": file["qParams"] | view}))
    explorer = GraphExplorer(read_neuronpedia(path))
    assert (explorer.pinned, explorer.groups, explorer.selection) == ([a], {"x": [a, b], "x 2": [c]}, [])
    assert explorer.past == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "the state is no JSON"),
        ("[]", "the state is a list"),
        ({"pinnedIds": ["nobody"]}, "'nobody' is not a node"),
        ({"supernodes": [["a", "9_9_9"]]}, "'9_9_9' is not a node"),
        ({"supernodes": [["a"]]}, "one member or more"),
        ({"supernodes": [[]]}, "has no name"),
        ({"supernodes": [["a", "E_0_0"], ["a", "E_0_1"]]}, "two supernodes are called 'a'"),
        ({"node_threshold": 7}, "node_threshold is 7.0; it is a share"),
        ({"node_threshold": "x"}, "'x'"),
        ({"pinnedIds": 3}, "pinnedIds"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(graph: Any, state: Any, message: str) -> None:
    explorer = GraphExplorer(graph)
    explorer.pinned = ids_of(explorer, "latent")[:1]
    before = explorer.view_state
    with pytest.raises(ValueError, match=message):
        explorer.restore(state)
    assert explorer.view_state == before


def test_details_of_a_latent(embedded: Any, tmp_path: Path) -> None:
    """Its identity, where it is active, and passages: those that saes.top_examples finds."""
    rows = interp.rows_for(embedded, interp.embedded.TEXT_FOLDER / "heldout.jsonl", tmp_path / "rows", tokens=2_000)
    graph = attribution_graph(embedded, "Emma and Tom went to the river. Tom", "embedded", max_nodes=64)
    one = graph.source.transcoders[1]
    text = Text(model=embedded, rows=rows, site=one.read, max_tokens=2_000)
    explorer = GraphExplorer(graph, text=text)
    number = next(i for i in explorer._sent.values() if graph.nodes.kind[i] == LATENT and graph.nodes.layer[i] == 1)
    node = graph.node(number)
    name = next(name for name, its in explorer._sent.items() if its == number)
    note, here, effects, _, heading, *passages, where = explorer.detail(name)
    assert note["text"].startswith(f"Pre-activation {graph.pre_activation[number]:.4g}: ")
    assert here["peak"] == node.position
    assert here["values"][node.position] == pytest.approx(node.value, rel=6e-3)
    assert len(effects["raised"]) == 8
    assert heading["text"] == "Where it is most active"
    (expected,) = top_examples(one.part, text, [node.index])
    assert [passage["values"] for passage in passages] == [
        [float(f"{value:.3g}") for value in example.activations] for example in expected
    ]
    assert "2,000 tokens" in where["text"]
    without = GraphExplorer(graph).detail(name)
    assert "text=saes.features.examples.Text" in without[-1]["text"]
