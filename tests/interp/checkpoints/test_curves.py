"""Any measurement over checkpoints: nothing repeated, added measurements join, names that lie are flagged."""

import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.checkpoints import Measurement, Quantity, quantity, sweep, training_page
from interp.checkpoints.pages import model_page
from interp.checkpoints.text_report import print_run
from interp.metrics import Estimate
from tests.interp.massive.planted import planted_model, planted_tokens

STEPS = (0, 1, 2, 4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed, step in enumerate(STEPS):
        planted_model(write=float(step), seed=seed).save_pretrained(tmp_path / "run" / f"step{step}")
    return tmp_path / "run"


class Counting:
    """The norms of the blocks' last projections, and how often they were asked for."""

    def __init__(self, name: str = "norms", **settings: Any) -> None:
        self.calls = 0
        self.measurement = Measurement(
            name=name, code=1, run=self.run, titles={"norm": "Norm of W_out"}, settings=settings
        )

    def run(self, model: Any, tokens: torch.Tensor) -> dict[str, Quantity]:
        self.calls += 1
        norms = [float(block.mlp.out.weight.norm()) for block in model.blocks]
        return {"norm": quantity(norms), "hidden": quantity({"all": Estimate(math.inf, math.nan, 3)})}


def test_curves_hold_what_each_checkpoint_gives(run: Path, tmp_path: Path) -> None:
    norms = Counting()
    found = sweep(str(run), planted_tokens(), [norms.measurement], tmp_path / "out")
    curves = found.curves["norms"]
    steps, values, errors, counts = curves.series("norm")
    assert (steps.tolist(), counts) == (list(STEPS), [1] * 4)
    for column, (seed, step) in enumerate(enumerate(STEPS)):
        model = planted_model(write=float(step), seed=seed)
        expected = [float(layer.mlp.dense_4h_to_h.weight.norm()) for layer in model.gpt_neox.layers]
        assert values[:, column].tolist() == pytest.approx(expected, rel=1e-6)
    assert all(map(math.isnan, errors.ravel()))
    assert (curves.labels("norm"), curves.names) == (("0", "1", "2", "3"), ("norm",))
    assert curves.points[0].quantities["hidden"].values == (None,)
    with pytest.raises(ValueError, match="'other' was not measured; there are norm, hidden"):
        curves.series("other")


def test_nothing_is_measured_twice_and_a_new_measurement_is_added(run: Path, tmp_path: Path) -> None:
    first, second = Counting(), Counting("again", option=2)
    sweep(str(run), planted_tokens(), [first.measurement], tmp_path / "out")
    both = sweep(str(run), planted_tokens(), [first.measurement, second.measurement], tmp_path / "out")
    assert (first.calls, second.calls, both.done) == (4, 4, Counter({"measured": 4}))
    again = sweep(str(run), planted_tokens(), [first.measurement, second.measurement], tmp_path / "out")
    assert (first.calls, second.calls, again.done) == (4, 4, Counter({"there already": 4}))
    assert again.curves["again"].points == both.curves["again"].points
    third = Counting("again", option=3)
    sweep(str(run), planted_tokens(), [third.measurement], tmp_path / "out", steps="4")
    assert third.calls == 1


def test_the_page_of_a_model_says_what_its_bars_count(tmp_path: Path) -> None:
    what = Measurement(
        name="x", code=1, run=lambda model, tokens: {}, titles={"block": "of blocks", "head": "of heads", "one": "all"}
    )
    found = {
        "block": quantity({"0": 1.0, "1": 2.0, "all": 1.5}),
        "head": quantity({"0.0": 1.0, "0.1": 2.0}),
        "one": quantity({"ablate:1.0": Estimate(0.5, 0.25, 4)}),
    }
    page = model_page("t", [(what, found)], tokens=torch.zeros(2, 3, dtype=torch.long))
    html = page.write(tmp_path / "page.html").read_text()
    titles = re.findall(r'"xaxis":\{"title":\{"text":"([^"]*)"', html)
    assert titles == ["block", "block.head"]
    assert "<b>0.5 ± 0.25</b><small>ablate:1.0; n = 4</small>" in html


def test_equal_weights_are_flagged_and_measured_once(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "step1")
    shutil.copytree(run / "step4", run / "step1")
    norms = Counting()
    found = sweep(str(run), planted_tokens(), [norms.measurement], tmp_path / "out")
    curves = found.curves["norms"]
    assert (norms.calls, found.done) == (3, Counter({"measured": 3, "same weights": 1}))
    assert [said.suspect for said in curves.flags] == [False, True, False, False]
    assert curves.series("norm")[0].tolist() == [0, 2, 4]
    page = training_page("Norms", [curves]).write(tmp_path / "page.html")
    assert "Checkpoints that share weights" in page.read_text()


def test_missing_checkpoints_are_told_and_shown(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    told: list[str] = []
    found = sweep(str(run), planted_tokens(), [Counting().measurement], tmp_path / "out", steps="2,3", tell=told.append)
    assert found.curves["norms"].missing == {3: "no such revision"}
    assert told[0] == "step 3: missing, no such revision"
    assert told[1].startswith("step 2: norms: largest norm ")
    print_run(Console(width=100), found)
    assert "Missing: 3" in capsys.readouterr().out
    assert "no such revision" in training_page("x", list(found.curves.values())).write(tmp_path / "x.html").read_text()


def test_a_damaged_line_is_named(run: Path, tmp_path: Path) -> None:
    sweep(str(run), planted_tokens(), [Counting().measurement], tmp_path / "out", steps="0,1")
    path = tmp_path / "out" / "results.jsonl"
    lines = path.read_text().splitlines()
    line = json.loads(lines[1])
    line["quantities"]["norm"]["values"][0] += 1
    path.write_text(f"{lines[0]}\n{json.dumps(line)}\n")
    with pytest.raises(ValueError, match=r"line 2 of .*results\.jsonl is damaged.*Delete that line"):
        sweep(str(run), planted_tokens(), [Counting().measurement], tmp_path / "out")


def test_measurements_need_names_of_their_own(tmp_path: Path) -> None:
    twice = [Counting().measurement, Counting().measurement]
    for wrong in ([], twice):
        with pytest.raises(ValueError, match="give at least one, and each name once"):
            sweep("embedded", planted_tokens(), wrong, tmp_path)
