"""The page of a graph, and the command that writes it; what is clicked in it is in the explorer's tests."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from circuits.commands.graph import app
from circuits.graphs import attribution_graph, graph_page, measure, plan_graph, read_neuronpedia, score_pairs
from circuits.graphs.logit_effects import token_effects
from interp.cli import main
from interp.embedded import TEXT_FOLDER
from interp.sites.site import Site
from saes import embedded_transcoders
from saes.commands.inputs import text_for
from saes.features.examples import top_examples
from saes.features.logit_effects import effects_of
from tests.circuits.graphs.schema import GRAPH_FILE
from tests.circuits.graphs.sets import precise, prompt, random_set
from tests.circuits.pairs import bridge_of
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def pruned():
    return attribution_graph(precise("gpt2"), prompt(), random_set(), targets=[3, 4]).prune(nodes=0.95)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_tokens_that_a_latent_raises_are_those_of_its_decoder(family: str) -> None:
    model, made = tiny_model(family), random_set("clt", dtype=torch.float32)
    graph = attribution_graph(model, prompt(), made, targets=[3])
    words = token_effects(graph, np.arange(len(graph)))
    bridge = bridge_of(tiny_model(family))
    for number in list(words)[:10]:
        part = made.parts[graph.nodes.layer[number]]
        row = sum(part.at_place(i)[graph.nodes.index[number]] for i in range(len(part.written_widths)))
        (expected,) = effects_of(row[None], bridge, k=5)
        for found, its in zip(words[number], (expected.raised, expected.lowered), strict=True):
            assert [token for token, _ in found] == [str(i) for i, _ in its]
            assert len({round(value - logit, 4) for (_, value), (_, logit) in zip(found, its, strict=True)}) == 1


def test_a_measurement_of_another_graph_is_refused(pruned) -> None:
    other = pruned.graph.prune(nodes=0.5)
    with pytest.raises(ValueError, match="of another pruned graph"):
        graph_page(pruned, measurement=measure(other, modes=["direct"], null=False))


def test_a_plan_says_what_it_takes() -> None:
    model, made = precise("gpt2"), random_set()
    for options in ({}, {"max_nodes": 20}, {"memory": 1}):
        plan, graph = plan_graph(model, prompt(), made, **options), attribution_graph(model, prompt(), made, **options)
        assert (plan.tokens, plan.n_active) == (7, graph.n_active)
        assert plan.backwards >= graph.cost["backwards"] >= plan.backwards / 3
    assert re.match(r"7 tokens, \d+ active latents; 1 forward, at most \d+ batched backwards", str(plan))


def test_the_command_answers_before_it_says_where_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], embedded
) -> None:
    names = {name: tmp_path / f"graph.{name}" for name in ("html", "neuronpedia", "save")}
    given = [f"--{name}={path}" for name, path in names.items()]
    with pytest.raises(SystemExit) as ended:
        main(["graph", "embedded", "--task", "ioi", "--prompts", "4", "--measure", *given])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("17 tokens,")
    assert lines[1].startswith("'<|endoftext|>While")
    assert lines[2].startswith("Replacement 0.")
    assert any(re.match(r"  on 3 other prompts \(live\): \d+% replicates", line) for line in lines)
    assert lines[-1].startswith("The page is")
    file = json.loads(names["neuronpedia"].read_text())
    jsonschema.validate(file, GRAPH_FILE)
    assert len(read_neuronpedia(names["neuronpedia"]).prune(nodes=1.0, edges=1.0).links) == len(file["links"])
    assert len(json.loads(names["save"].read_text())["edges"]) == len(file["links"])
    assert "Attribution graph" in names["html"].read_text()
    del embedded


def test_the_page_shows_passages_of_given_text(tmp_path: Path, embedded) -> None:
    """Those that the latents' own lookup finds in the same rows."""
    page, corpus = tmp_path / "graph.html", TEXT_FOLDER / "heldout.jsonl"
    line = ["graph", "embedded", "--prompt", "Emma and Tom", "--nodes=0.3", f"--html={page}", f"--data={corpus}"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--tokens=1000"])
    assert not ended.value.code
    saved = json.loads(re.search(r"<script[^>]*json[^>]*>(.*?)</script>", page.read_text(), re.DOTALL)[1])
    latent = next(node["id"] for node in saved["state"]["graphs"]["position"]["nodes"] if node["kind"] == "latent")
    layer, index, _ = map(int, latent.split("_"))
    shown = [one for one in saved["details"][latent] if one["kind"] == "passage"][1:]
    dictionary = embedded_transcoders()
    text = text_for(dictionary, embedded, corpus, tmp_path / "rows", tokens=1000)
    site = Site("mlp_in", layer)
    (expected,) = top_examples(dictionary.parts[layer], replace(text, site=site), [index], k=len(shown))
    assert [one["values"][one["peak"]] for one in shown] == pytest.approx(
        [one.activation for one in expected], rel=1e-2
    )
    assert len(shown) > 1


def test_the_command_says_why_a_head_attends(capsys: pytest.CaptureFixture[str], embedded) -> None:
    """The same pairs as in Python, in words and as an answer for scripts."""
    line = ["graph", "embedded", "--prompt", "Emma and Tom went to the river. Tom", "--why-attends", "1.1:9:4"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--json"])
    shown = capsys.readouterr()
    assert not ended.value.code, shown.err
    why = json.loads(shown.out)["why_attends"]
    graph = attribution_graph(embedded, line[3], "embedded")
    expected = score_pairs(graph, 1, 1, query=9, key=4)
    assert why["score"] == pytest.approx(expected.score)
    assert [(pair["query"], pair["key"]) for pair in why["pairs"]] == [pair[:2] for pair in expected.top(8)]
    assert [pair["adds"] for pair in why["pairs"]] == pytest.approx([pair[2] for pair in expected.top(8)])
    lines = shown.err.splitlines()
    first = next(i for i, said in enumerate(lines) if said.startswith("Layer 1, head 1 looks from @9 "))
    query, key, adds = expected.top(1)[0]
    assert f"with score {expected.score:.3f}" in lines[first]
    assert lines[first + 1] == f"  {adds:+.3f}  {query}  x  {key}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["embedded"], "there is nothing to explain"),
        (["embedded", "--prompt", "a", "--save", "m.json"], "pass --measure too"),
        (["embedded", "--prompt", "a", "--data", "text.txt"], "pass --html too"),
        (["embedded", "--task", "nothing"], "neither one of"),
        (["embedded", "--prompt", "a", "--why-attends", "2:16:3"], "it is LAYER.HEAD:QUERY:KEY"),
        (["embedded", "--prompt", "Emma was", "--why-attends", "9.0:1:1"], "--why-attends 9.0:1:1: layer is 9"),
        (["embedded", "--prompt", "Emma was", "--targets", "not one token"], "a target is one"),
    ],
)
def test_the_command_refuses_in_words(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        app(given, exit_on_error=False, result_action="return_value")
