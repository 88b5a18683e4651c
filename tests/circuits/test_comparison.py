"""The table of estimates against exact patching on a trained model, its figures by hand, and the two commands."""

import json
import math
import time
from dataclasses import replace

import plotly.graph_objects as go
import pytest
import torch

import circuits
from circuits.circuit import Circuit
from circuits.commands.circuit import circuit
from circuits.commands.options import TaskOptions
from circuits.commands.patch import patch
from circuits.comparison import Comparison, compare
from circuits.draw import heat_map
from circuits.scores.agreement import agreement, pearson, ranks
from circuits.tasks.task import Task
from interp import load_model
from saes import SAE, TopK
from tests.circuits.pairs import model_of, random_task


def test_agreement_by_hand() -> None:
    model, task = model_of("gpt2"), random_task()
    exact = circuits.attribute(model, task, nodes="mlp_out", method="patching")
    half = replace(exact, per_prompt=exact.per_prompt / 2, values=exact.values / 2, method="atp")
    found = agreement(half, exact)
    assert found.pearson == pytest.approx(1)
    assert found.pearson_nonzero == pytest.approx(1)
    assert found.slope == pytest.approx(0.5)
    assert found.rank == pytest.approx(1)
    assert found.pearson_interval == pytest.approx((1, 1))
    assert (found.cells, found.prompts) == (21, 2)
    assert found.nonzero_cells == int((exact.per_prompt != 0).any(0).sum())
    absolute = replace(exact, per_prompt=exact.per_prompt.abs(), values=exact.per_prompt.abs().mean(0), method="atp*")
    assert agreement(absolute, exact).pearson == pytest.approx(1)
    other = circuits.attribute(model, task, nodes="attn_out", method="atp")
    with pytest.raises(ValueError, match="family is attn_out and mlp_out"):
        agreement(other, exact)


def test_correlations_by_hand() -> None:
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])
    assert pearson(x, y) == pytest.approx(0.5)
    assert math.isnan(pearson(x, torch.ones(3)))
    assert ranks(torch.tensor([5.0, 1.0, 5.0, 0.0])).tolist() == [2.5, 1.0, 2.5, 0.0]


def test_one_signature_for_nodes_features_and_edges() -> None:
    model, task = model_of("gpt2"), random_task()
    sae = SAE(32, 64, TopK(4), site="blocks.0.hook_mlp_out").initialise(seed=0, mean=torch.zeros(32))
    assert circuits.attribute(model, task, nodes="latents", method="atp", saes=[sae]).features[sae.site].shape == (
        7,
        64,
    )
    assert len(circuits.attribute(model, task, nodes="edges", method="eap").edges) == 262
    with pytest.raises(ValueError, match="belong together"):
        circuits.attribute(model, task, nodes="latents", method="atp")


def test_agreement_of_features_and_of_edges() -> None:
    """Over what differs between the runs, and over the edges that there are."""
    model, task = model_of("gpt2"), random_task()
    sae = SAE(32, 64, TopK(4), site="blocks.0.hook_mlp_out").initialise(seed=0, mean=torch.zeros(32))
    exact = circuits.attribute(model, task, nodes="latents", method="patching", saes=[sae])
    found = circuits.attribute(model, task, nodes="latents", method="atp", saes=[sae], agreement=True)
    assert found.nodes == exact.nodes
    assert found.agreement == agreement(found, exact)
    assert found.agreement.pearson == pytest.approx(pearson(found.values, exact.values))
    assert found.agreement.cells == len(found.nodes) == found.standard_error.numel()
    for node, value in zip(exact.nodes, exact.values, strict=True):
        dense = exact.errors[sae.site] if node.feature is None else exact.features[sae.site][:, node.feature]
        assert dense[node.position] == value
    exact = circuits.attribute(model, task, nodes="edges", method="path-patching")
    found = circuits.attribute(model, task, nodes="edges", method="eap", agreement=True)
    assert found.agreement.cells == len(found.edges) < found.mask.numel()
    expected = torch.corrcoef(torch.stack([found.values[found.mask], exact.values[found.mask]]))[0, 1]
    assert found.agreement.pearson == pytest.approx(float(expected), abs=1e-6)
    assert exact.agreement is None
    with pytest.raises(ValueError, match="acdc measures divergences in nats"):
        circuits.attribute(model, task, nodes="edges", method="acdc", agreement=True)
    with pytest.raises(ValueError, match="family is edges and mlp_out"):
        agreement(found, circuits.attribute(model, task, nodes="mlp_out", method="patching"))


@pytest.fixture(scope="module")
def ioi(embedded) -> Task:
    return circuits.tasks.ioi(embedded.tokenizer, 16, seed=0)


def test_relevance_is_nearer_to_patching_than_gradients_on_the_embedded_model(embedded, ioi) -> None:
    """For the residual stream and for MLPs, as in the paper; no such claim for attention outputs, nor with AH."""
    found = compare(embedded, ioi)
    for family in ("resid_pre", "mlp_out"):
        atp, relp = (found.estimates[name][family].agreement for name in ("AtP", "LN+Id+Half"))
        assert relp.pearson > atp.pearson
        assert abs(relp.slope - 1) < abs(atp.slope - 1)
        assert relp.pearson_interval[0] <= relp.pearson <= relp.pearson_interval[1]
    table = found.markdown().splitlines()
    assert table[0] == "| nodes | AtP | LN | LN+Id+Half | all four |"
    assert len(table) == 5
    json.dumps(found.to_json(), allow_nan=False)


def test_a_circuit_of_the_embedded_model(embedded, ioi) -> None:
    """A tenth of the edges does most of the task."""
    whole = Circuit.from_edges(circuits.attribute_edges(embedded, ioi.replace(direction="noise"), method="eap"))
    evaluator = circuits.Evaluator(embedded, ioi)
    small = evaluator.evaluate(whole.prune(size=len(whole.edges) // 5))
    assert small.faithfulness > 0.5
    assert small.completeness < 0.5


def test_patch_writes_a_page_that_shows_prompts_as_text(tmp_path, capsys, embedded) -> None:
    path = tmp_path / "tags.jsonl"
    line = {
        "clean": "So <u> Mary & x, Mary",
        "corrupt": "So <u> John & x, Mary",
        "correct": " went",
        "wrong": " was",
    }
    path.write_text(json.dumps(line))
    patch(
        "embedded",
        about=TaskOptions(task=str(path)),
        nodes=("attn_out",),
        html=tmp_path / "page.html",
        save=tmp_path / "scores.json",
    )
    page = (tmp_path / "page.html").read_text()
    body = page[page.index("<body>") :]
    assert "exact patching" in body
    assert "&lt;" in body
    assert "<u" not in body
    found = json.loads((tmp_path / "scores.json").read_text())
    assert set(found["estimates"]) == {"AtP", "LN", "LN+Id+Half", "all four"}
    assert found["exact"]["attn_out"]["axes"] == ["layer", "position"]
    assert "attn_out" in capsys.readouterr().out


def test_circuit_writes_every_file(tmp_path, capsys) -> None:
    files = {name: tmp_path / f"circuit.{name}" for name in ("html", "graphml", "dot", "neuronpedia", "mib")}
    circuit("embedded", about=TaskOptions(prompts=4), size=30, method="eap", save=tmp_path / "circuit.json", **files)
    assert all(file.stat().st_size for file in files.values())
    loaded = Circuit.load(tmp_path / "circuit.json")
    assert 0 < len(loaded.edges) <= 30
    assert loaded.about["task"] == "ioi_swap"
    assert "faithfulness" in capsys.readouterr().out
    options = {"direction": "denoise", "method": "eap-ig", "steps": 2, "save": tmp_path / "denoise.json"}
    circuit("embedded", about=TaskOptions(prompts=4), size=30, **options)
    assert "eap-ig: 3 forwards, 2 backwards" in " ".join(capsys.readouterr().out.split())
    assert Circuit.load(tmp_path / "denoise.json").about["direction"] == "denoise"
    with pytest.raises(ValueError, match="task 'sums' is neither one of ioi"):
        circuit("embedded", about=TaskOptions(task="sums"))
    with pytest.raises(ValueError, match="--size is 0; a circuit has 1 edge or more"):
        circuit("embedded", size=0)


def test_heat_maps() -> None:
    model, task = model_of("gpt2"), random_task(labels=["a", "<i>", "c", "d", "e", "f", "&"])
    scores = circuits.attribute(model, task, nodes="heads", method="atp")
    figure = heat_map(scores)
    assert isinstance(figure, go.Figure)
    shown = figure.data[0]
    assert shown.z[5][4] == pytest.approx(float(scores.values[1, 4, 1]))
    assert shown.zmax == -shown.zmin
    assert figure.layout.xaxis.ticktext[1] == "&lt;i&gt; 1"
    with pytest.raises(ValueError, match="layer, position, neuron cannot be drawn"):
        heat_map(circuits.attribute(model, task, nodes="neurons", method="atp"))


# The demonstration in RelP's repository: with the first person as subject the answer is the second, and the other way
# round.
SENTENCES = (
    ("When John and Mary went to the shops, {} gave the bag to", "John", "Mary"),
    ("When Tom and James went to the park, {} gave the ball to", "James", "Tom"),
    ("When Dan and Sid went to the shops, {} gave an apple to", "Sid", "Dan"),
    ("After Martin and Amy went to the park, {} gave a drink to", "Amy", "Martin"),
)
# Pearson's correlation with exact patching for resid_pre, attn_out, mlp_out. SmolLM2: as another implementation had it,
# by hooks of plain PyTorch. GPT-2: in the notebooks of RelP's repository.
ON_SMOLLM2 = {
    "AtP": (0.802, 0.973, 0.820),
    "LN": (0.827, 0.979, 0.798),
    "LN+Id+Half": (0.924, 0.993, 0.915),
    "all four": (0.880, 0.922, 0.937),
}
ON_GPT2 = {"AtP": (0.735, 0.982, 0.436), "LN": (0.873, 0.981, 0.941), "all four": (0.962, 0.961, 0.989)}


def demonstration(tokenizer, sentences: int, **options) -> Task:
    prompts: dict[str, list[str]] = {name: [] for name in ("clean", "corrupt", "correct", "wrong")}
    for sentence, first, second in SENTENCES[:sentences]:
        for subject, other in ((first, second), (second, first)):
            row = (sentence.format(subject), sentence.format(other), f" {other}", f" {subject}")
            for name, value in zip(prompts, row, strict=True):
                prompts[name].append(value)
    return Task.from_text(tokenizer, **prompts, **options)


def check_replicated(found: Comparison, expected: dict[str, tuple[float, ...]], *, within: float) -> None:
    """And that relevance is above AtP for the residual stream and MLPs, of which alone the paper says so."""
    for name, families in expected.items():
        for family, value in zip(found.exact, families, strict=True):
            assert found.estimates[name][family].agreement.pearson == pytest.approx(value, abs=within), (name, family)
    for family in ("resid_pre", "mlp_out"):
        atp, *_, relevance = (found.estimates[name][family].agreement.pearson for name in expected)
        assert relevance > atp


@pytest.mark.smollm2
@pytest.mark.slow
def test_smollm2_has_the_correlations_that_another_implementation_found(smollm2) -> None:
    found = compare(smollm2, demonstration(smollm2.tokenizer, 2))
    assert found.exact["mlp_out"].clean_metric == pytest.approx(3.80, abs=0.01)
    check_replicated(found, ON_SMOLLM2, within=0.005)


@pytest.mark.slow
def test_gpt2_has_the_correlations_of_the_published_notebooks() -> None:
    try:
        model = load_model("gpt2")
    except ValueError as error:
        pytest.skip(f"needs GPT-2's weights in the hub's cache: {error}")
    found = compare(model, demonstration(model.tokenizer, 4, bos=True))
    assert found.exact["mlp_out"].clean_metric == pytest.approx(3.552, abs=0.01)
    check_replicated(found, ON_GPT2, within=0.01)


@pytest.mark.smollm2
@pytest.mark.slow
def test_relevance_costs_little_more_than_gradients(smollm2) -> None:
    """Processor time in turns, so that a busy machine does not decide."""
    task = circuits.tasks.ioi(smollm2.tokenizer, 4, seed=0)
    times: dict[str, list[float]] = {"atp": [], "relp": []}
    for _ in range(4):
        for method, found in times.items():
            begin = time.process_time()
            circuits.attribute(smollm2, task, nodes=["resid_pre", "attn_out", "mlp_out"], method=method)
            found.append(time.process_time() - begin)
    assert min(times["relp"]) < 1.3 * min(times["atp"])
