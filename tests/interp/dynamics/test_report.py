"""The report: planted curves come out in their order; Pythia by name without a network, and what a model lacks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclopts import App
from huggingface_hub import constants

from interp.checkpoints import sweep
from interp.checkpoints.curves import CurvePoint, Curves, Quantity
from interp.commands.dynamics import whole
from interp.dynamics import dynamics_of, measurements
from interp.dynamics import parts as parts_module
from interp.dynamics.page import build_page
from interp.dynamics.parts import LEFT_OUT
from interp.embedded import TEXT_FOLDER
from tests.tiny_models import VOCAB, tiny_model

STEPS = (0, 1, 4, 16, 64, 256, 1024, 4096)
TEXT = str(TEXT_FOLDER / "heldout.jsonl")


def call(app: App, *line: str) -> None:
    app(list(line), print_error=False, exit_on_error=False, result_action="return_value")


def point(step: int, quantities: dict[str, Quantity]) -> CurvePoint:
    return CurvePoint(
        model="planted",
        step=step,
        revision=f"step{step}",
        identity=f"files:{step}",
        weights=f"sha256:{step}",
        blocks=(f"sha256:b{step}",),
        data="sha256:d",
        dtype="float32",
        code=1,
        measurement="shared",
        settings="{}",
        quantities=quantities,
    )


def heads(**values: float) -> Quantity:
    labels = tuple(name.removeprefix("h").replace("_", ".") for name in values)
    return Quantity(labels=labels, values=tuple(values.values()), standard_errors=(0.001,) * len(values), n=16)


def one(value: float, error: float | None = 0.001) -> Quantity:
    return Quantity(labels=("0",), values=(float(value),), standard_errors=(error,), n=16)


def planted(induction: list[float]) -> dict[str, Curves]:
    """Loss falls by step 16, copying comes with induction, the massive ratio after it; sinks only waver; one block."""
    points = []
    for i, step in enumerate(STEPS):
        quantities = {
            "induction": heads(h0_0=0.1, h1_1=induction[i]),
            "copy_accuracy": one([0, 0, 0, 0, 0.02, 0.04, 0.96, 1][i]),
            "loss": one([9, 9, 8, 5, 4.5, 4.4, 4.3, 4.2][i]),
            "massive_ratio": one([7, 7, 7, 7, 7, 7, 8, 100][i]),
            "sink_rate": one(0.3 + 0.001 * (-1) ** i),
        }
        points.append(point(step, quantities | ({LEFT_OUT: heads(hno_scores=0.0)} if step == 0 else {})))
    what = measurements(leave_out=["sparsity", "gains", "codes"])[0]
    return {"shared": Curves(model="planted", measurement=what, points=tuple(points), missing={8: "no such revision"})}


def test_planted_curves_come_in_their_order(tmp_path: Path) -> None:
    curves = planted([0.01, 0.01, 0.01, 0.01, 0.02, 0.03, 0.85, 0.95])
    found = dynamics_of(curves)
    assert found.phase == (256.0, 4096.0), "nine tenths are done at the last"
    assert found.induction is not None
    assert found.induction.part == "1.1"
    places = {each.curve.quantity: found.place(each) for each in found.curves}
    assert places == {"loss": "before", "induction": "with", "copy_accuracy": "with", "massive_ratio": "with"}
    assert found.curves[0].curve.quantity == "loss"
    assert found.curves[-1].curve.quantity == "massive_ratio"
    assert [each.curve.quantity for each in found.still] == ["sink_rate"]
    by_name = {each.curve.quantity: each for each in found.curves}
    assert found.probability(by_name["loss"]) == 1
    assert found.probability(by_name["massive_ratio"]) == 0
    assert found.probability(by_name["copy_accuracy"]) == pytest.approx(0.5, abs=0.08)
    assert found.share_in_phase(by_name["copy_accuracy"]) == pytest.approx(0.96)
    assert found.left_out == {"shared": "no.scores (at 1 of 8 checkpoints)"}
    assert "Induction appears between steps 256 and 4,096: head 1.1 comes to give 0.95" in " ".join(found.answer())
    assert "Unchanged beyond noise: heads whose sink is position 0" in " ".join(found.answer())
    page = build_page(found, curves, data="text").write(tmp_path / "page.html").read_text()
    assert "share of the change" in page
    assert "no such revision" in page
    assert json.loads(json.dumps(found.to_json()))["phase"] == [256.0, 4096.0]


def test_without_induction_it_says_so() -> None:
    found = dynamics_of(planted([0.01, 0.01, 0.01, 0.01, 0.02, 0.03, 0.03, 0.04]))
    assert found.phase is None
    assert "No head comes to look at what followed" in " ".join(found.answer())
    assert "In order: loss on text" in " ".join(found.answer())


def test_too_few_checkpoints() -> None:
    curves = planted([0.0] * 8)["shared"]
    few = Curves(model="planted", measurement=curves.measurement, points=curves.points[:2], missing={})
    with pytest.raises(ValueError, match="2 checkpoints of planted have weights of their own"):
        dynamics_of({"shared": few})


@pytest.fixture
def pythia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache, without a network, that holds five steps of Pythia-70m and its last."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--EleutherAI--pythia-70m"
    (repo / "refs").mkdir(parents=True)
    for seed, name in enumerate(("step0", "step1", "step64", "step512", "step1000", "main")):
        commit = f"{seed:x}" * 40
        tiny_model("gpt_neox", seed=max(1, seed)).save_pretrained(repo / "snapshots" / commit)
        (repo / "refs" / name).write_text(commit)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, VOCAB, 400).astype(np.uint16))
    return tmp_path


@pytest.mark.slow
def test_pythia_by_name_goes_on_where_it_was(
    pythia: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["pythia-70m", "--data", str(pythia / "ids.npy"), "--sequences", "2", "--context", "16"]
    line += ["--steps", "all", "--leave-out", "gains", "--out", str(pythia / "out")]
    call(whole.app, *line)
    shown = capsys.readouterr().out
    assert "Left out: gains" in shown
    assert "143,000" in (pythia / "out" / "report.html").read_text(), "main is the last step"
    assert "Missing: 2, 4, 8" in shown
    lines = (pythia / "out" / "results.jsonl").read_bytes()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass was repeated")

    monkeypatch.setattr(parts_module, "together", never)
    monkeypatch.setattr(parts_module, "sparsity_at", never)
    call(whole.app, *line)
    assert "6 there already" in capsys.readouterr().out
    assert (pythia / "out" / "results.jsonl").read_bytes() == lines


def test_without_a_network_and_a_cache_it_says_what_is_missing(pythia: Path) -> None:
    with pytest.raises(ValueError, match=r"EleutherAI/pythia-160m is neither a folder nor in the hub's cache"):
        call(whole.app, "pythia-160m", "--data", str(pythia / "ids.npy"), "--out", str(pythia / "out"))
    with pytest.raises(ValueError, match="shared cannot be left out; these can: sparsity, gains, codes, kernels"):
        call(whole.app, "pythia-70m", "--data", "x", "--leave-out", "shared", "--out", str(pythia / "out"))
    with pytest.raises(ValueError, match="has none of the steps 77"):
        call(whole.app, "pythia-70m", "--data", "x", "--steps", "77", "--out", str(pythia / "out"))


def test_what_a_model_lacks_is_said_and_stops_nothing(tmp_path: Path) -> None:
    """Of a mixture of experts the MLPs have no last projection: sparsity says so, induction is measured."""
    for step in (0, 1, 2):
        tiny_model("mixtral", seed=step).save_pretrained(tmp_path / "run" / f"step{step}")
    tokens = torch.randint(1, VOCAB, (2, 16), generator=torch.Generator().manual_seed(0))
    run = sweep(str(tmp_path / "run"), tokens, measurements(leave_out=["codes"], half=8), tmp_path / "out")
    found = dynamics_of(run.curves)
    assert "sparsity" in found.left_out
    assert found.induction is not None
