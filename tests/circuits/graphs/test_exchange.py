"""Graph files: valid, equal when they come back, and those of another tool read."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from circuits.graphs import Difference, attribution_graph, measure, read_neuronpedia, write_neuronpedia
from circuits.graphs.exchange.writing import pair_number, to_neuronpedia, unpaired
from circuits.graphs.graph import ERROR, LATENT, TARGET, TOKEN
from tests.circuits.graphs.schema import GRAPH_FILE
from tests.circuits.graphs.sets import precise, prompt, random_set


@pytest.fixture(scope="module")
def pruned():
    made = random_set()
    split = {1: lambda x: x * 0.1}
    return attribution_graph(precise("gpt2"), prompt(), made, targets=[3, Difference(4, 5)], split=split).prune()


def test_a_graph_is_a_valid_file(pruned) -> None:
    view = {"pinnedIds": ["E_37_0"], "supernodes": [["names", "E_37_0", "E_43_1"]]}
    details = {"neuronpedia_source_set": "mine"}
    latent = next(int(i) for i in pruned.kept if pruned.graph.nodes.kind[i] == LATENT)
    found = to_neuronpedia(
        pruned, slug="tiny", scan="gpt2-small", labels={latent: "a name"}, view=view, feature_details=details,
        measurement=measure(pruned, modes=["live"]),
    )  # fmt: skip
    jsonschema.validate(found, GRAPH_FILE)
    graph, nodes = pruned.graph, {node["node_id"]: node for node in found["nodes"]}
    assert len(nodes) == len(pruned)
    assert {node["ctx_idx"] for node in nodes.values()} >= set(range(7))
    assert found["metadata"]["prompt_tokens"] == list(graph.labels)
    assert found["metadata"]["prompt"] == graph.prompt == "37 43 12 8 63 9 11"
    assert len(found["metadata"]["transcoder_list"]) == 3
    share = float(graph.weights[len(graph) - 2])
    first = nodes["4_3_6"]
    assert first["clerp"] == f'Output "3" (p={share:.3f})'
    assert (first["token_prob"], first["is_target_logit"], first["jsNodeId"]) == (share, True, "L_3-6")
    its = next(node for node in nodes.values() if node["clerp"] == "a name")
    n = graph.nodes
    assert its["node_id"] == f"{n.layer[latent]}_{n.index[latent]}_{n.position[latent]}"
    assert its["jsNodeId"] == f"{n.layer[latent]}_{n.index[latent]}-0"
    assert its["feature"] == pair_number(int(n.layer[latent]), int(n.index[latent]))
    assert its["activation"] == pytest.approx(n.value[latent])
    shares = {node["node_id"]: node["influence"] for node in nodes.values() if node["feature_type"] != "logit"}
    order = sorted(shares, key=lambda name: shares[name])
    assert all(0 < share <= 1 for share in shares.values())
    first = graph.top(1)[0]  # the most influential node holds its own share alone
    assert shares[order[0]] == pytest.approx(first.influence / graph.influence.sum())
    assert found["links"][0]["measured"].keys() >= {"live", "total", "holds", "above_null"}
    assert [link["weight"] for link in found["links"]] == [link[2] for link in pruned.links]


def test_what_is_written_comes_back(pruned, tmp_path: Path) -> None:
    path = write_neuronpedia(pruned, tmp_path / "graph.json", slug="tiny")
    found = read_neuronpedia(path)
    kept, graph = pruned.kept, pruned.graph
    np.testing.assert_allclose(found.adjacency.toarray(), pruned.edges.toarray()[np.ix_(kept, kept)], rtol=1e-12)
    for name in ("kind", "layer", "position", "index"):
        np.testing.assert_array_equal(getattr(found.nodes, name), getattr(graph.nodes, name)[kept])
    np.testing.assert_allclose(found.weights, graph.weights[kept])
    same = ("model", "prompt", "tokens", "labels", "n_layers", "target_names", "n_active", "left_out_positions")
    assert all(getattr(found, name) == getattr(graph, name) for name in same)
    again = to_neuronpedia(found.prune(nodes=1.0, edges=1.0), slug="tiny")
    before = json.loads(path.read_text())
    assert again["nodes"] == before["nodes"]
    assert again["links"] == before["links"]
    with pytest.raises(ValueError, match="no model at hand"):
        found.reruns.run("live")


def test_a_file_of_another_tool_is_read(tmp_path: Path) -> None:
    """As circuit-tracer writes one: features are paired numbers, errors have ids of their own, logits no influence."""
    node = {"run_idx": 0, "reverse_ctx_idx": 0, "clerp": "", "token_prob": 0.0, "is_target_logit": False}
    nodes = [
        node | {"node_id": "1_70_2", "feature": pair_number(1, 70), "layer": "1", "ctx_idx": 2, "jsNodeId": "1_70-0",
                "feature_type": "cross layer transcoder", "influence": 0.4, "activation": 2.5},
        node | {"node_id": "0_0_1", "feature": -1, "layer": "0", "ctx_idx": 1, "jsNodeId": "0_0-0", "influence": 0.9,
                "feature_type": "mlp reconstruction error", "activation": None},
        node | {"node_id": "E_99_0", "feature": 0, "layer": "E", "ctx_idx": 0, "jsNodeId": "E_99-0",
                "feature_type": "embedding", "influence": 0.95, "activation": None},
        node | {"node_id": "27_500_2", "feature": 500, "layer": "27", "ctx_idx": 2, "jsNodeId": "L_500-2",
                "feature_type": "logit", "clerp": 'Output " Austin" (p=0.420)', "token_prob": 0.42,
                "is_target_logit": True, "influence": None, "activation": None},
    ]  # fmt: skip
    links = [
        {"source": "1_70_2", "target": "27_500_2", "weight": 3.5},
        {"source": "0_0_1", "target": "1_70_2", "weight": -1.5},
        {"source": "E_99_0", "target": "1_70_2", "weight": 0.5},
    ]
    view = {"pinnedIds": ["1_70_2"], "supernodes": [["Texas", "1_70_2"]]}
    metadata = {"slug": "dallas", "scan": "gemma-2-2b", "prompt": "a b c", "prompt_tokens": ["a", " b", " c"]}
    file = {"metadata": metadata, "qParams": view, "nodes": nodes, "links": links}
    (tmp_path / "graph.json").write_text(json.dumps(file))
    graph = read_neuronpedia(tmp_path / "graph.json")
    assert [graph.nodes.kind[i] for i in range(4)] == [LATENT, ERROR, TOKEN, TARGET]
    assert graph.n_layers == 26
    assert (graph.node(0).index, graph.node(0).value) == (70, 2.5)
    assert graph.target_names == (" Austin",)
    assert graph.tokens == (99, -1, -1)
    np.testing.assert_allclose(graph.influence, [0.42, 0.42 * 0.75, 0.42 * 0.25, 0.0])
    assert graph.scores.replacement == pytest.approx(0.25)
    assert graph.about["view"]["supernodes"] == [["Texas", "1_70_2"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["nodes"][0].pop("ctx_idx"), "lacks 'ctx_idx'"),
        (lambda file: file["nodes"][0].update(ctx_idx=7), "at position 7 of a prompt of 7 tokens"),
        (lambda file: file["nodes"][0].update(feature_type="neuron"), "is a 'neuron'"),
        (lambda file: file["links"][0].update(source="nobody"), "which is no node"),
        (lambda file: file["links"][0].update(weight="much"), "weight"),
        (lambda file: file["nodes"].append(file["nodes"][0]), "same node_id"),
        (lambda file: file.update(nodes=[]), r"no node|logit"),
        (lambda file: file["links"].append({"source": file["nodes"][-1]["node_id"],
                                            "target": file["links"][0]["source"], "weight": 1.0}), "circle"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(pruned, tmp_path: Path, change, message: str) -> None:
    file = to_neuronpedia(pruned, slug="tiny")
    file["links"].sort(key=lambda link: link["target"] != file["nodes"][-1]["node_id"])
    change(file)
    (tmp_path / "graph.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match=message) as error:
        read_neuronpedia(tmp_path / "graph.json")
    assert "graph.json" in str(error.value)


def test_views_and_labels_of_what_is_not_there_are_refused(pruned) -> None:
    with pytest.raises(ValueError, match="'9_9_9', which is no node"):
        to_neuronpedia(pruned, slug="tiny", view={"pinnedIds": ["9_9_9"]})
    with pytest.raises(ValueError, match="labels names node 99999"):
        to_neuronpedia(pruned, slug="tiny", labels={99999: "x"})


@pytest.mark.parametrize(("layer", "index"), [(0, 0), (3, 7), (25, 16383), (41, 2_500_000)])
def test_numbers_of_latents_are_undone(layer: int, index: int) -> None:
    assert unpaired(pair_number(layer, index)) == (layer, index)
