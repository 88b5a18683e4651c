"""Our sparse probing, TPP and SCR beside SAEBench's own, from activations to figures (``make test-peers``)."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.peers import made_python
from saes import SAE
from saes.suites import LabelledTexts, examples_from_rows, perturb_targets, plant, probe_sparsely, remove_spurious
from saes.suites.planted import Planted
from saes.suites.probes import Probe, by_mean_difference, fit_dense
from saes.suites.scr import Removal
from saes.suites.texts.labelled import held_out
from saes.suites.tpp import Targeted

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent
NS = (1, 2, 3, 5)
EACH = 120
"""Rows of each class, or of each combination of two labels."""


def rows_where(planted: Planted, *conditions: tuple[tuple[int, ...], int]) -> Tensor:
    """Rows in which of each of some features one alone fires, the one named."""
    drawn = planted.rows(40_000, seed=1)
    kept = torch.ones(len(drawn.x), dtype=torch.bool)
    for among, which in conditions:
        kept &= drawn.fires[:, which] & (drawn.fires[:, list(among)].sum(1) == 1)
    assert int(kept.sum()) >= EACH
    return drawn.x[kept][:EACH]


def interleaved(kinds: list[Tensor], labels: list[str], second: list[str] | None = None) -> tuple[Tensor, Any]:
    """One row of each kind in every group, so that both sides of a split have equally many."""
    groups = tuple(f"{i:03}" for i in range(EACH) for _ in kinds)
    more = {} if second is None else {"second": tuple(second) * EACH}
    names = tuple(map(str, range(len(groups))))
    texts = LabelledTexts(
        name="given", texts=names, labels=tuple(labels) * EACH, groups=groups, position="last", **more
    )
    return torch.stack(kinds, 1).flatten(0, 1), texts


class OneOfThree:
    """Rows of three classes, and the rows that each question is asked of."""

    def __init__(self, planted: Planted, sae: SAE) -> None:
        kinds = [rows_where(planted, ((0, 1, 2), which)) for which in range(3)]
        self.x, self.texts = interleaved(kinds, ["a", "b", "c"])
        self.labels, self.groups = np.array(self.texts.labels), np.array(self.texts.groups)
        self.examples = examples_from_rows(sae, self.x)
        self.test = held_out(self.texts.labels, self.texts.groups, share=0.3, seed=0)

    def asked(self, y: np.ndarray, mask: np.ndarray, _: object = None) -> np.ndarray:
        """In place of our draw: a class, and the first rows of the others, as SAEBench has them without its draw."""
        own = np.flatnonzero(mask & y)
        rest = [np.flatnonzero(mask & (self.labels == name)) for name in "abc" if name != self.labels[own[0]]]
        each = math.ceil(len(own) / len(rest))
        return np.sort(np.concatenate([own, np.concatenate([rows[:each] for rows in rest])[: len(own)]]))

    def sides(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers, and numbers of training and test rows."""
        y = self.labels == name
        return y, self.asked(y, ~self.test), self.asked(y, self.test)

    def given(self, evaluation: str) -> dict[str, Tensor]:
        of = {"train": ~self.test, "test": self.test}
        return {
            f"{evaluation}/{side}/{name}": self.x[torch.from_numpy(mask & (self.labels == name))]
            for side, mask in of.items()
            for name in "abc"
        }


def weights(probe: Probe) -> Tensor:
    return torch.from_numpy(np.append(probe.weights, probe.bias)).float()


class Crossed:
    """Rows of two properties, and their names in SAEBench, whose SCR knows one pair."""

    PAIRS = (
        ("professor / nurse", "nurse_data_only", (0, 1), (2, 3)),
        ("male / female", "female_data_only", (0, 2), (1, 3)),
        ("male_professor / female_nurse", "female_nurse_data_only", (0,), (3,)),
    )
    """Name of the rows with yes and with no, and which of the four kinds these are."""

    def __init__(self, planted: Planted, sae: SAE) -> None:
        cells = [(a, b) for a in (0, 1) for b in (2, 3)]  # professor or nurse, male or female
        kinds = [rows_where(planted, ((0, 1), a), ((2, 3), b)) for a, b in cells]
        self.x, self.texts = interleaved(
            kinds, ["y professor", "y professor", "n nurse", "n nurse"], ["y male", "n female"] * 2
        )
        self.groups, self.cell = np.array(self.texts.groups), np.arange(len(self.x)) % 4
        self.examples = examples_from_rows(sae, self.x)
        self.test = held_out(self.texts.labels, self.texts.groups, share=0.3, seed=0)

    def given(self) -> dict[str, Tensor]:
        found = {}
        for yes, no, of_yes, of_no in self.PAIRS:
            for side, mask in (("train", ~self.test), ("test", self.test)):
                for name, kinds in ((yes, of_yes), (no, of_no)):
                    found[f"scr/{side}/{name}"] = self.x[torch.from_numpy(mask & np.isin(self.cell, kinds))]
            rows = np.flatnonzero(~self.test & np.isin(self.cell, of_yes + of_no))
            probe = fit_dense(self.x.double().numpy()[rows], np.isin(self.cell[rows], of_yes), self.groups[rows])
            found[f"scr/probe/{yes}"] = weights(probe)
        return found


def accuracy_unscaled(inputs: np.ndarray, three: OneOfThree, k: int) -> float:
    """Of the k inputs whose means differ most, mean over the questions: a logistic regression as it stands."""
    right = []
    for name in "abc":
        y, train, test = three.sides(name)
        first = by_mean_difference(inputs[train], y[train])[:k]
        probe = LogisticRegression(max_iter=1000).fit(inputs[train][:, first], y[train])
        right.append(float((probe.predict(inputs[test][:, first]) == y[test]).mean()))
    return float(np.mean(right))


def test_figures_from_activations_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = made_python("saebench")
    if python is None:
        pytest.skip("make peers first: `make test-peers` (there is no environment of saebench)")
    planted = plant(
        roots=6, children={0: 2, 1: 2, 2: 2}, d=16, seed=0, exponent=0.0, top_rate=0.4, low=2.0, high=2.0, noise=0.5
    )
    sae = planted.absorbing_dictionary({6: 1.0, 8: 0.6, 10: 0.3})
    sae.place("blocks.0.hook_resid_post")
    sae.save(tmp_path / "sae")
    three, crossed = OneOfThree(planted, sae), Crossed(planted, sae)
    x = three.x.double().numpy()
    probes = {}
    for name in "abc":
        y, train, _ = three.sides(name)
        probes[f"tpp/probe/{name}"] = weights(fit_dense(x[train], y[train], three.groups[train]))
    given = three.given("probing") | three.given("tpp") | probes | crossed.given()
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "given.safetensors")
    worker = [python, HERE / "worker_saebench_pipelines.py", tmp_path / "sae", tmp_path / "given.safetensors", tmp_path]
    done = subprocess.run(
        worker, capture_output=True, text=True, timeout=900, env=os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    for module in ("probing", "tpp"):
        monkeypatch.setattr(f"saes.suites.{module}.balanced", three.asked)
    check_probing(theirs["probing"], three)
    check_tpp(theirs, perturb_targets(sae, three.examples, three.texts, ns=NS))
    check_scr(theirs, remove_spurious(sae, crossed.examples, crossed.texts, ns=NS))


def check_probing(theirs: dict[str, float], three: OneOfThree) -> None:
    """Theirs are a regression of the inputs as they stand; ours, of scaled ones, differ by a few of 216 answers."""
    pooled = probe_sparsely(three.examples, three.texts, ks=NS).pooled
    for one in pooled.sparse:
        for name, ours, inputs in (
            ("sae", one.accuracy, three.examples.latents.toarray()),
            ("llm", one.dimensions, three.x.numpy()),
        ):
            its = theirs[f"{name}_top_{one.k}_test_accuracy"]
            assert accuracy_unscaled(inputs, three, one.k) == pytest.approx(its, abs=1e-6)
            assert ours.value == pytest.approx(its, abs=0.02)
            assert 0.7 < its < 1
    assert pooled.dense.value == pytest.approx(theirs["llm_test_accuracy"], abs=0.03)  # another optimiser


def check_tpp(theirs: Any, found: Targeted) -> None:
    """Of the same probes the same figures, up to the number of latents whose effect is above 0."""
    its = theirs["tpp, given probes"]
    assert found.accuracies == pytest.approx(list(its["clean"].values()), abs=1e-6)
    assert min(map(len, found.latents)) == 4
    for one in found.by_count:
        begin = f"tpp_threshold_{one.n_latents}"
        intended, unintended = (its["scores"][f"{begin}_{which}_diff_only"] for which in ("intended", "unintended"))
        if one.n_latents < 5:
            assert one.intended.value == pytest.approx(intended, abs=1e-6)
            assert one.unintended.value == pytest.approx(unintended, abs=1e-6)
            assert one.tpp.value == pytest.approx(its["scores"][f"{begin}_total_metric"], abs=1e-6)
            assert one.tpp.value > 0.1
        else:  # where a latent's effect is below 0, theirs takes one of effect 0 in its place, and ablates that
            assert unintended > one.unintended.value + 0.05
    own = theirs["tpp, own probes"]
    assert found.accuracies == pytest.approx(list(own["clean"].values()), abs=0.05)
    assert 0 < own["scores"]["tpp_threshold_2_total_metric"] < found.by_count[1].tpp.value  # its probes are other ones


def check_scr(theirs: Any, found: Removal) -> None:
    """Of the same probes the same figures, in both directions, and the same direction is the figure."""
    its, clean = theirs["scr, given probes"]["scores"], theirs["scr, given probes"]["clean"]
    biased = "male_professor / female_nurse probe on"
    for number, (name, direction) in enumerate(
        zip(("professor / nurse", "male / female"), found.directions, strict=True), 1
    ):
        assert direction.clean.value == pytest.approx(clean[name], abs=1e-6)
        assert direction.biased.value == pytest.approx(clean[f"{biased} {name} data"], abs=1e-6)
        for one in direction.by_count:
            assert one.scr.value == pytest.approx(its[f"scr_dir{number}_threshold_{one.n_latents}"], abs=1e-5)
    for one in found.by_count:
        assert one.scr.value == pytest.approx(its[f"scr_metric_threshold_{one.n_latents}"], abs=1e-5)
        assert 0.2 < one.scr.value < 1
    own = theirs["scr, own probes"]["scores"]
    assert all(own[f"scr_dir{number}_threshold_5"] > 0.3 for number in (1, 2))  # its probes are other ones
