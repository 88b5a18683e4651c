"""One prompt has no spread: its standard errors and intervals are NaN, null in files, and shown as ``n = 1``."""

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import circuits
from circuits.circuit import Circuit
from circuits.commands.circuit import circuit
from circuits.commands.options import TaskOptions
from circuits.commands.patch import patch
from circuits.comparison import compare
from circuits.draw import agreement_table
from circuits.explorer.explorer import Explorer
from circuits.features.comparison import compare_features
from circuits.mib.areas import mib_areas
from circuits.runs.runner import Cost
from circuits.scores.nodes import Scores
from circuits.scores.uncertainty import jackknife, mean_estimate, standard_error
from interp.metrics import Estimate
from saes import SAE, TopK
from tests.circuits.pairs import model_of, random_task


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="std")
        yield


def test_the_standard_error_is_that_of_a_mean() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    assert standard_error(values).tolist() == [pytest.approx(1.0), 0.0]  # (3 - 1) / sqrt(2) / sqrt(2)
    assert all(math.isnan(error) for error in standard_error(values[:1]).tolist())


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = jackknife(values, lambda means: float(means.sum()))
    expected = mean_estimate(values.sum(0))
    assert (found.value, found.standard_error) == pytest.approx((expected.value, expected.standard_error))
    assert found.n == expected.n == 7
    # Of a square: |2 mean| times that of the mean, to first order.
    narrow = 5 + 1e-3 * values[:1]
    squared = jackknife(narrow, lambda means: float(means[0] ** 2))
    assert squared.standard_error == pytest.approx(10 * mean_estimate(narrow[0]).standard_error, rel=1e-3)
    assert str(jackknife(values[:, :1], lambda means: 1.0)) == "1 (n = 1)"


def test_faithfulness_and_its_areas_are_estimates() -> None:
    model = model_of("gpt2")
    for n in (1, 3):
        task = random_task(n=n, direction="noise")
        whole = Circuit.from_edges(circuits.attribute_edges(model, task, method="eap"))
        evaluator = circuits.Evaluator(model, task)
        measured, curve = evaluator.evaluate(whole.prune(size=30)), evaluator.curve(whole, fractions=[0.1, 1.0])
        areas = mib_areas(evaluator, whole)
        estimates = [measured.faithfulness, measured.completeness, *curve.faithfulness, curve.area, curve.distance]
        estimates += [areas.cpr, areas.cmd, *areas.by_signed_score, *areas.by_absolute_score]
        for estimate in estimates:
            assert isinstance(estimate, Estimate)
            assert estimate.n == measured.n == curve.n == areas.n == n
            assert math.isnan(estimate.standard_error) == (n == 1)
            assert estimate.error().startswith("(n = 1)" if n == 1 else "± ")
        assert curve.area.value == pytest.approx(0.45 * (curve.faithfulness[0] + curve.faithfulness[1]), abs=1e-6)


def test_agreement_on_one_prompt_has_no_interval() -> None:
    found = compare(model_of("gpt2"), random_task(n=1), nodes=["mlp_out"])
    for scores in found.estimates.values():
        own = scores["mlp_out"].agreement
        assert math.isfinite(own.pearson)
        assert all(math.isnan(end) for end in (*own.pearson_interval, *own.pearson_nonzero_interval))
        assert own.to_json()["pearson_interval"] == [None, None]
    assert found.markdown().count(" (n = 1), slope ") == len(found.estimates)
    columns, rows = agreement_table(found)
    assert {row[columns.index("95 %")] for row in rows} == {"n = 1"}
    several = compare(model_of("gpt2"), random_task(n=3), nodes=["mlp_out"]).estimates["AtP"]["mlp_out"].agreement
    low, high = several.pearson_interval
    assert low < several.pearson < high
    assert several.interval_text == f"{low:.3f} to {high:.3f}"


def test_features_and_the_explorer() -> None:
    model, task = model_of("gpt2"), random_task(n=1)
    sae = SAE(32, 64, TopK(4), site="blocks.0.hook_mlp_out").initialise(seed=0, mean=torch.zeros(32))
    assert " (n = 1) / " in compare_features(model, task, [sae], sizes=[5]).markdown()
    found = Circuit.from_edges(circuits.attribute_edges(model, task.replace(direction="noise"), method="eap"))
    explorer = Explorer(found.prune(size=40), model=model, task=task)
    for within in ("model", "circuit"):
        assert math.isnan(explorer.measure(["m0"], to="resample", within=within).standard_error)
    explorer.selection = ["m0"]
    assert explorer.measured["standard_error"] is None
    assert " (n = 1) " in explorer.measured["words"]


def test_the_largest_scores_in_words() -> None:
    per_prompt = torch.zeros(2, 2, 3, 2, dtype=torch.float64)  # [prompt, layer, position, head]
    per_prompt[:, 1, 2, 0] = torch.tensor([-0.9, -0.7])
    per_prompt[:, 0, 1, 1] = torch.tensor([0.5, 0.5])
    scores = Scores(
        values=per_prompt.mean(0),
        per_prompt=per_prompt,
        method="patching",
        rules=None,
        direction="noise",
        metric="logit_diff",
        clean_metric=1.0,
        corrupt_metric=0.0,
        cost=Cost(forwards=1.0, backwards=0.0),
        axes=("layer", "position", "head"),
        family="z",
        labels=("When", " Mary", " to"),
    )
    assert scores.finding(2) == "layer 1 head 0 at ' to' -0.80 ± 0.1, layer 0 head 1 at ' Mary' +0.50 ± 0"
    unlabelled = replace(scores, labels=None, per_prompt=per_prompt[:1], values=per_prompt[0])
    assert unlabelled.finding(1) == "layer 1 head 0 at position 2 -0.90 (n = 1)"


def test_commands_say_n_is_1(tmp_path, capsys) -> None:
    patch(
        "embedded",
        about=TaskOptions(prompts=1),
        nodes=("attn_out",),
        save=tmp_path / "p.json",
        html=tmp_path / "p.html",
    )
    circuit("embedded", about=TaskOptions(prompts=1), size=30, method="eap", html=tmp_path / "c.html")
    printed = capsys.readouterr().out
    assert "n = 1" in printed
    assert "  attn_out: layer " in printed
    assert "Strongest edges: " in printed
    assert "nan" not in printed.lower().split()
    scores = json.loads((tmp_path / "p.json").read_text())
    assert scores["estimates"]["AtP"]["attn_out"]["agreement"]["pearson_interval"] == [None, None]
    for page in ("p.html", "c.html"):
        text = (tmp_path / page).read_text()
        body = text[text.index("<body>") :]
        assert "n = 1" in body
        assert "NaN" not in body[: body.index("<script")]
