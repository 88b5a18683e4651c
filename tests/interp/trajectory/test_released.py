"""The released dataset's layout: both number notations as NumPy prints them, and malformed files refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from interp.cli import main
from interp.trajectory.emergence_curve import EmergenceCurve
from interp.trajectory.released import read_fits, read_release, read_stats

STEPS = (0, 1, 2, 16, 512, 2000, 8000, 36_000, 100_000, 143_000)
CURVES = [EmergenceCurve(A=a, lam=0.12, gamma=1.1e-4, t0=1.1, K=7.0) for a in (30.0, 100.0, 200.0)]


def array_at(step: int) -> np.ndarray:
    """[10, 4, 3] whose ratio of means follows the curves."""
    rng = np.random.default_rng(step)
    median = np.full((10, 3), 0.1755127)
    top = np.stack([median[:, 0] * curve(np.array([float(step)]))[0] for curve in CURVES], axis=1)
    top = top * (1 + rng.uniform(-0.05, 0.05, (10, 1)) * np.array([[1.0]]))
    top *= np.stack([median[0, 0] * curve(np.array([float(step)]))[0] for curve in CURVES]) / top.mean(0)
    return np.stack([top, top * 0.9, top * 0.5, median], axis=1)


def write_release(folder: Path) -> Path:
    (folder / "stats").mkdir(parents=True)
    (folder / "params").mkdir()
    for i, step in enumerate(STEPS):
        with np.printoptions(
            threshold=10**6, suppress=i % 2 == 0, precision=8, floatmode="maxprec" if i % 2 else "fixed"
        ):
            text = repr(array_at(step)) if i % 3 else str(array_at(step))
        (folder / "stats" / f"exp2_{folder.name}_step{step}").write_text(text)
    layers = [
        {
            "original": {
                "param_names": ["A", "λ", "γ", "t0", "K"],  # noqa: RUF001
                "popt": [c.A, c.lam, c.gamma, c.t0, c.K],
                "pcov": np.eye(5).tolist(),
                "r2": 0.99,
                "aic": -302.0,
                "residuals": [0.0],
            },
            "step1": {},
        }
        for c in CURVES
    ]
    (folder / "params" / "layer_fit_params_ratio.json").write_text(json.dumps(layers), encoding="utf-8")
    return folder


def test_a_release_is_read_and_fitted(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "pythia_14m")
    (folder / "stats" / "exp2_pythia_14m_step66000").write_text("[[[1. 2.")
    found = read_release(folder)
    assert (found.size, found.steps) == ("14m", STEPS)
    assert found.stats.shape == (len(STEPS), 10, 4, 3)
    for step, array in zip(STEPS, found.stats, strict=True):
        assert array == pytest.approx(array_at(step), rel=1e-6, abs=1e-7)
    assert list(found.refused) == ["exp2_pythia_14m_step66000"]
    assert found.series()[1] == pytest.approx(CURVES[1](np.array(STEPS, dtype=float)), rel=1e-5)
    assert found.series("median") == pytest.approx(0.1755127)
    assert found.fits["ratio"][2].curve == CURVES[2]
    assert found.fits["ratio"][0].r2 == 0.99
    again = found.refit()
    assert [fit.curve.peak_step for fit in again] == pytest.approx([c.peak_step for c in CURVES], rel=0.01)


@pytest.mark.slow
def test_curves_of_released_models_predicted_from_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three layers a model are far too few to predict from; all that is claimed is that every target is tried."""
    folders = [str(write_release(tmp_path / f"pythia_{size}")) for size in ("14m", "70m", "160m", "410m")]
    with pytest.raises(SystemExit) as ended:
        main(["massive", "predict", *folders])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    lines = [line.replace("│", " ").split() for line in printed.splitlines() if "random_forest" in line]
    assert [line[0] for line in lines] == ["A", "lam", "gamma", "t0", "K", "peak_step", "peak_height", "final_value"]
    assert {line[2] for line in lines} == {"12"}
    with pytest.raises(SystemExit, match="2"):
        main(["massive", "predict", str(write_release(tmp_path / "pythia_3m")), folders[0]])
    assert "the architecture of 3m is not known; sizes: 14m, 70m" in " ".join(capsys.readouterr().err.split())


def test_both_notations_and_both_ways_of_printing(tmp_path: Path) -> None:
    array = np.sort(np.random.default_rng(0).lognormal(0, 4, (2, 4, 5)), axis=1)[:, ::-1]
    for name in ("plain", "scientific"):
        with np.printoptions(precision=8, threshold=10**6, suppress=name == "plain"):
            for way in (str, repr):
                (tmp_path / name).write_text(way(array))
                assert ("e+" in way(array)) == (name == "scientific")
                assert read_stats(tmp_path / name) == pytest.approx(array, rel=1e-6, abs=1e-7)
    (tmp_path / "short").write_text("[[[+1. .9][1 .8][1e-1 +.5e0]\n[1E-2 0.]]]".replace("1e-1", ".8"))
    assert read_stats(tmp_path / "short").tolist() == [[[1, 0.9], [1, 0.8], [0.8, 0.5], [0.01, 0]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ragged or its brackets"),
        ("[[[1. 2.]]", "ragged or its brackets"),
        ("[[[4.][3.][2.][1. 1.]]]", "ragged or its brackets"),
        ("[[[4.][3.][2.][1.]] ... [[4.][3.][2.][1.]]]", r"abridged by NumPy \(\.\.\.\)"),
        ("[[[4.][3.][2.][nan]]]", "not numbers in brackets"),
        ("Traceback (most recent call last)", "not numbers in brackets"),
        ("[[4. 3. 2. 1.]]", r"has shape \(1, 4\)"),
        ("[[[4.][3.][2.]]]", r"has shape \(1, 3, 1\)"),
        ("[[[4.][3.][5.][1.]]]", "in the order top 1, top 2, top 3, median"),
        ("[[[4.][3.][2.][-1.]]]", "in the order"),
    ],
)
def test_malformed_statistics_are_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "exp2_pythia_1b_step0"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"exp2_pythia_1b_step0 .*{message}"):
        read_stats(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "is not a list of layers"),
        ('[{"reparam": {}}]', "layer 0 of .* is not a fit of the release"),
        ('[{"original": {"param_names": ["a"], "popt": [1]}}]', r"parameters \['a'\], not"),
    ],
)
def test_malformed_fits_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "layer_fit_params_ratio.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_fits(path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder pythia_<size>"):
        read_release(tmp_path)
