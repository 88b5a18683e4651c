"""Circuits: pruning, faithfulness at its ends, areas by hand, and files that come back equal."""

import json
from dataclasses import replace

import jsonschema
import networkx
import pytest
import torch

from circuits.anatomy.wiring import Wiring
from circuits.attribution.edge_patching import EdgePatcher, cut_all_but
from circuits.attribution.edges import attribute_edges
from circuits.circuit import Circuit
from circuits.draw import circuit_graph
from circuits.explorer.graph import Graph, Link, part_of
from circuits.export import to_dot, to_neuronpedia, write_graphml
from circuits.faithfulness import ABLATIONS, Evaluator
from circuits.runs.pair import open_session
from interp.sites.norms import linear_norm
from tests.circuits.graphs.schema import GRAPH_FILE
from tests.circuits.pairs import model_of, random_task
from tests.tiny_models import HEADS


@pytest.fixture(scope="module")
def whole() -> Circuit:
    scores = attribute_edges(model_of("llama"), random_task(direction="noise"), method="eap")
    return Circuit.from_edges(scores, model="tiny llama", task="random")


def by_hand() -> Circuit:
    """embed -> a0.h0 -> m1 -> logits, a dead end a0.h1, an orphan m0 and a direct edge."""
    edges = {
        ("embed", "a0.h0.v"): 3.0,
        ("a0.h0", "m1"): -2.0,
        ("m1", "logits"): 1.0,
        ("embed", "a0.h1.q"): 5.0,
        ("m0", "logits"): 4.0,
        ("embed", "logits"): 0.1,
    }
    names = ["embed", "a0.h0", "a0.h1", "m0", "m1", "logits"]
    groups = {v: (v.rsplit(".", 1)[0] if v.endswith((".q", ".v")) else v,) for _, v in edges}
    return Circuit(nodes=dict.fromkeys(names, 1.0), edges=edges, groups=groups, about={"task": "toy"})


def test_pruning_drops_what_is_on_no_path() -> None:
    circuit = by_hand()
    kept = circuit.prune(threshold=0.5)
    assert list(kept.edges) == [("embed", "a0.h0.v"), ("a0.h0", "m1"), ("m1", "logits")]
    assert list(kept.nodes) == ["embed", "a0.h0", "m1", "logits"]
    assert len(circuit.prune(threshold=0.5, dangling=True).edges) == 5
    assert circuit.prune(size=2).edges == {}  # a dead end and an orphan
    assert list(circuit.prune(size=0).nodes) == ["embed", "logits"]
    assert circuit.prune(size=6).edges.keys() == {*kept.edges, ("embed", "logits")}
    assert ("m1", "logits") not in kept.without(("m1", "logits")).edges
    for options, message in (
        ({}, "one of them"),
        ({"size": 7}, "has 6 edges"),
        ({"threshold": -1.0}, "0 or more"),
        ({"size": 1, "threshold": 1.0}, "one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            circuit.prune(**options)
    with pytest.raises(ValueError, match="is not an edge"):
        kept.without(("m0", "logits"))


def test_shared_keys_belong_to_every_head_of_their_group(whole: Circuit) -> None:
    assert whole.groups["a1.h1.k"] == ("a1.h2", "a1.h3")
    assert whole.groups["a1.h1.q"] == ("a1.h1",)
    graph = whole.to_networkx()
    assert graph.has_edge("m0", "a1.h2", key="a1.h1.k")
    assert graph.has_edge("m0", "a1.h3", key="a1.h1.k")
    assert networkx.is_directed_acyclic_graph(graph)


def test_ends_of_faithfulness(whole: Circuit) -> None:
    for ablation in ABLATIONS:
        evaluator = Evaluator(model_of("llama"), random_task(), ablation=ablation)
        full, none = evaluator.evaluate(whole), evaluator.evaluate(whole.prune(size=0))
        assert (full.faithfulness, full.completeness) == pytest.approx((1, 0), abs=1e-4)
        assert (none.faithfulness, none.completeness) == pytest.approx((0, 1), abs=1e-4)
        assert full.n == 2


def test_ablations_by_hand() -> None:
    """Resampling everything gives the corrupt run's metric; zero leaves the biases alone: the last norm's bias."""
    model, task = model_of("gpt2"), random_task()
    rows = torch.arange(len(task))

    def difference(logits: torch.Tensor) -> float:
        return float((logits[rows, task.correct[:, 0]] - logits[rows, task.wrong[:, 0]]).detach().mean())

    resample = Evaluator(model, task, ablation="resample")
    assert resample.model_metric == pytest.approx(difference(model(task.clean).logits[:, -1]), abs=1e-4)
    assert resample.nothing_metric == pytest.approx(difference(model(task.corrupt).logits[:, -1]), abs=1e-4)
    session = open_session(model, task.replace(direction="noise"))
    patcher = EdgePatcher(session, Wiring(session.anatomy))
    final = patcher.written(task.clean).sum(0)
    attention_biases = sum(block.attn.c_proj.bias for block in model.transformer.h)
    stream = model(task.clean, output_hidden_states=True)
    torch.testing.assert_close(
        model.lm_head(model.transformer.ln_f(final + attention_biases)), stream.logits, rtol=1e-3, atol=1e-4
    )
    zero = model.lm_head(model.transformer.ln_f(attention_biases[None])).expand(2, -1)
    assert Evaluator(model, task, ablation="zero").nothing_metric == pytest.approx(difference(zero), abs=1e-4)


def last_layer_reads(model, edges: list[tuple[str, str]]) -> torch.Tensor:
    """Last-position logits when layer 2 and the logits read along ``edges`` alone, all else being ablated to zero.
    The layers before are whole, so that much is written that those readers must not see."""
    task = random_task(direction="noise")
    session = open_session(model, task)
    patcher = EdgePatcher(session, Wiring(session.anatomy))
    patcher.reference = None
    cut = cut_all_but(patcher.wiring, edges)
    cut[:, [v.layer < 2 for v in patcher.wiring.readers]] = False
    return patcher.logits(cut[None])[0]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_a_reader_whose_writers_are_all_cut_sees_exactly_zero(family: str) -> None:
    """The rest of "residual minus what is cut" would be a rounding error, which norms blow up to a signal."""
    model = model_of(family)
    assert (last_layer_reads(model, []) == 0).all()
    only_mlp = last_layer_reads(model, [("embed", "m2"), ("m2", "logits")])
    stack, task = model.model, random_task()
    block, embedded = stack.layers[2], embeddings(model, task.clean)
    norm2, mlp_added = (
        (block.post_attention_layernorm, lambda x: block.mlp(x))
        if family == "llama"
        else (block.pre_feedforward_layernorm, lambda x: block.post_feedforward_layernorm(block.mlp(x)))
    )
    expected = model.lm_head(stack.norm(mlp_added(norm2(embedded))))[:, -1]
    torch.testing.assert_close(only_mlp, capped(model, expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_a_head_that_sees_values_alone_attends_evenly(family: str) -> None:
    """Queries and keys are those of exactly nothing, 0, also behind a norm of their own: so is every score, and the
    head writes the mean over the positions before."""
    model, task = model_of(family), random_task()
    found = last_layer_reads(model, [("embed", "a2.h1.v"), ("a2.h2", "logits")])
    block, embedded = model.model.layers[2], embeddings(model, task.clean)
    values = block.self_attn.v_proj(block.input_layernorm(embedded)).unflatten(-1, (2, 8))[:, :, 1]
    z = torch.zeros(len(task), HEADS, 8)
    z[:, 2] = z[:, 3] = values.mean(1)  # both heads read this value head; the post-norm sees both, the logits one
    added = block.self_attn.o_proj(z.flatten(1))
    own = block.self_attn.o_proj((z * torch.eye(HEADS)[2][:, None]).flatten(1))
    if family != "llama":
        norm = linear_norm(block.post_attention_layernorm)
        own = norm.linear(own, norm.scale(added))
    expected = model.lm_head(model.model.norm(own))
    torch.testing.assert_close(found, capped(model, expected), rtol=1e-4, atol=1e-5)


def test_zero_ablation_leaves_what_no_head_writes() -> None:
    """Attention's output biases belong to no writer; they reach the readers of later layers, and this layer's MLP where
    it is not parallel to attention."""
    for family in ("gpt2", "gpt_neox"):
        model, task = model_of(family, dtype=torch.float64), random_task()
        found = last_layer_reads(model, [("embed", "m2"), ("m2", "logits")])
        if family == "gpt2":
            stack = model.transformer
            block, biases = stack.h[2], [layer.attn.c_proj.bias for layer in stack.h]
            written = block.mlp(block.ln_2(embeddings(model, task.clean) + sum(biases)))
            expected = model.lm_head(stack.ln_f(written + sum(biases)))
        else:
            stack = model.gpt_neox
            block, biases = stack.layers[2], [layer.attention.dense.bias for layer in stack.layers]
            written = block.mlp(block.post_attention_layernorm(embeddings(model, task.clean) + biases[0] + biases[1]))
            expected = model.get_output_embeddings()(stack.final_layer_norm(written + sum(biases)))
        torch.testing.assert_close(found.double(), expected[:, -1], rtol=1e-9, atol=1e-9)


def embeddings(model, tokens: torch.Tensor) -> torch.Tensor:
    """What enters the first block."""
    return model(tokens, output_hidden_states=True).hidden_states[0]


def capped(model, logits: torch.Tensor) -> torch.Tensor:
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def test_areas_and_minimality(whole: Circuit) -> None:
    evaluator = Evaluator(model_of("llama"), random_task())
    curve = evaluator.curve(whole, fractions=(0.0, 0.1, 0.5, 1.0))
    f = curve.faithfulness
    assert (f[0], f[-1]) == pytest.approx((0, 1), abs=1e-4)
    assert curve.area == pytest.approx(0.1 * (f[0] + f[1]) / 2 + 0.4 * (f[1] + f[2]) / 2 + 0.5 * (f[2] + f[3]) / 2)
    d = [abs(1 - value) for value in f]
    assert curve.distance == pytest.approx(0.1 * (d[0] + d[1]) / 2 + 0.4 * (d[1] + d[2]) / 2 + 0.5 * (d[2] + d[3]) / 2)
    small = whole.prune(size=20)
    measured = evaluator.evaluate(small).faithfulness
    edge, lost = next(iter(evaluator.minimality(small).items()))
    assert lost == pytest.approx(measured - evaluator.evaluate(small.without(edge)).faithfulness, abs=1e-4)
    with pytest.raises(ValueError, match="must rise"):
        evaluator.curve(whole, fractions=(0.5, 0.1))
    with pytest.raises(ValueError, match="'noise' is not one of resample, mean, zero"):
        Evaluator(model_of("llama"), random_task(), ablation="noise")


def test_files_come_back(whole: Circuit, tmp_path) -> None:
    small = whole.prune(size=20)
    assert Circuit.load(small.save(tmp_path / "circuit.json")) == small
    graph = networkx.read_graphml(write_graphml(small, tmp_path / "circuit.graphml"), force_multigraph=True)
    assert set(graph.nodes) == set(small.nodes)
    assert graph.number_of_edges() == small.to_networkx().number_of_edges()
    scores = sorted(data["score"] for *_, data in graph.edges(data=True))
    assert scores == pytest.approx(sorted(data["score"] for *_, data in small.to_networkx().edges(data=True)))
    good = json.loads((tmp_path / "circuit.json").read_text())
    for wrong, message in (
        ("{}", "it lacks 'format'"),
        ('{"format": "x"}', "'x'"),
        ("[]", "not a circuit"),
        ("no", "not a circuit"),
        (json.dumps(good | {"nodes": {"embed": "1"}}), "nodes.embed is '1'; it must be a finite number"),
        (json.dumps(good | {"edges": [["embed", "logits", None]]}), "edge embed -> logits is 'None'"),
        (json.dumps(good | {"edges": [["embed", "logits"]]}), "not a circuit"),
        (json.dumps(good | {"edges": [["embed", 3, 1.0]]}), "not a circuit"),
        (json.dumps(good | {"groups": {"logits": "logits"}}), "groups.logits is 'logits'"),
    ):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(ValueError, match=message):
            Circuit.load(tmp_path / "wrong.json")
    found = json.loads((tmp_path / "circuit.json").read_text())
    found["edges"].append(["m7", "logits", 1.0])
    (tmp_path / "wrong.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="m7 -> logits has an end that is not among its nodes"):
        Circuit.load(tmp_path / "wrong.json")


def test_the_graph_is_drawn_from_the_input_up() -> None:
    figure = circuit_graph(by_hand().prune(threshold=0.5))
    nodes = figure.data[-1]
    height = dict(zip(nodes.text, nodes.y, strict=True))
    assert height["embed"] < height["a0.h0"] < height["m1"] < height["logits"]
    assert len(figure.data) == 3 + 1
    assert figure.data[1].line.color == "#b2182b"  # the negative edge


def test_dot() -> None:
    circuit = by_hand().prune(threshold=0.5)
    dot = to_dot(circuit)
    assert '"embed" -> "a0.h0" [penwidth=4.50, color="#2166ac", label="v"];' in dot
    assert '"a0.h0" -> "m1" [penwidth=3.17, color="#b2182b"];' in dot


def test_a_circuit_by_position_is_a_file_of_neuronpedia() -> None:
    """Nodes stand where they act, influence is cumulative by hand, links into a head's q, k and v are one."""
    parts = [part_of("embed", 1.0, position=0), part_of("embed", 1.0, position=1), part_of("a0.h0", -2.0, position=1)]
    parts += [part_of("m1", 0.5, position=1), part_of("logits", 0.0, position=1)]
    named = {part.id: part for part in parts}
    links = [
        Link(source="embed@0", target="a0.h0@1", score=1.0, reader="k"),
        Link(source="embed@0", target="a0.h0@1", score=2.0, reader="v"),
        Link(source="embed@1", target="a0.h0@1", score=-1.0, reader="q"),
        Link(source="a0.h0@1", target="m1@1", score=1.0),
        Link(source="m1@1", target="logits@1", score=-3.0),
        Link(source="a0.h0@1", target="logits@1", score=1.0),
    ]
    unfolded = Graph(parts=named, links=links, columns=["[a]", " b"], by_position=True)
    graph = to_neuronpedia(unfolded, slug="toy", model="tiny", prompt="a b", tokens=["a", " b"])
    jsonschema.validate(graph, GRAPH_FILE)
    nodes = {node["clerp"] + str(node["ctx_idx"]): node for node in graph["nodes"]}
    assert {node["node_id"] for node in graph["nodes"]} == {
        "E_embed_0",
        "E_embed_1",
        "0_a0.h0_1",
        "1_m1_1",
        "3_logits_1",
    }
    # a0.h0 1, of which 3/4 from embed@0 and 1/4 from embed@1; m1 3/4: in all 2.75.
    cumulative = [nodes[name]["influence"] for name in ("a0.h01", "embed0", "m11", "embed1")]
    assert cumulative == pytest.approx([1 / 2.75, 1.75 / 2.75, 2.5 / 2.75, 1.0])
    weights = {(link["source"], link["target"]): link["weight"] for link in graph["links"]}
    assert weights["E_embed_0", "0_a0.h0_1"] == 3.0
    assert len(weights) == 5
    assert graph["metadata"]["prompt"] == "a b"
    assert graph["metadata"]["prompt_tokens"] == ["a", " b"]
    assert [node["node_id"] for node in graph["nodes"] if node["is_target_logit"]] == ["3_logits_1"]
    with pytest.raises(ValueError, match="no positions"):
        to_neuronpedia(replace(unfolded, by_position=False), slug="toy", model="t", prompt="a b", tokens=["a", " b"])
    with pytest.raises(ValueError, match="at its 3 tokens"):
        to_neuronpedia(unfolded, slug="toy", model="t", prompt="a b c", tokens=["a", " b", " c"])
