"""The command from end to end on a tiny model: what it prints, writes and refuses."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

from interp.cli import main
from interp.store.caching import cache_activations
from saes import SAE, TopK
from saes.dark_matter.experiments.power_law import fit_power_law
from saes.dark_matter.run import load_all
from tests.interp.store.stores import random_rows, tiny_bridge

SITE, BEFORE = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a store with its tokens, three widths of SAEs, one of an earlier site, one of nowhere."""
    folder = tmp_path_factory.mktemp("study")
    model = tiny_bridge(folder / "model")
    rows = random_rows(folder / "store" / "tokens", rows=60)
    store = cache_activations(model, rows, [BEFORE, SITE], folder / "store")
    for name, site, d_sae in (("w40", SITE, 40), ("w80", SITE, 80), ("w160", SITE, 160), ("before", BEFORE, 40)):
        source = {**store.provenance, "data": "sha256:another text"}
        sae = SAE(32, d_sae, TopK(k=6), site=site, provenance={"source": source})
        sae.initialise(seed=0, mean=store.read(site).mean(0)).save(folder / name)
    SAE(32, 40, TopK(k=6), site="blocks.2.hook_resid_post").save(folder / "elsewhere")
    return folder


def run(made: Path, out: Path, *more: str, saes: tuple[str, ...] = ("w40", "w80", "w160")) -> None:
    folders = [str(made / name) for name in saes]
    try:
        main(["darkmatter", "--sae", *folders, "--store", str(made / "store"), "--out", str(out), *more])
    except SystemExit as stopped:
        if stopped.code:
            raise


def test_two_processes_do_not_study_into_one_folder(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(SystemExit):
        run(made, tmp_path)
    assert f"another run is writing {tmp_path}; wait for it" in capsys.readouterr().err


def test_a_family_is_studied(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (
        "--drop-first 2 --downstream-tokens 960 --train-on-error --error-tokens 2000 --error-d-sae 48 --error-k 4"
    )
    run(made, tmp_path, "--components", str(made / "before"), *settings.split(), "--ridges", "0", "10")
    printed = capsys.readouterr()
    assert "warning: " in printed.err
    assert "measuring w80, 2 of 3" in printed.err
    found = json.loads((tmp_path / "darkmatter.json").read_text(encoding="utf-8"))
    assert (found["site"], found["tokens"]) == (SITE, 60 * 30)
    assert [sae["name"] for sae in found["saes"]] == ["w40", "w80", "w160"]
    assert "upper bound" in found["definitions"]["nonlinear"]
    for sae in found["saes"]:
        split = sae["split"]
        (line,) = re.findall(rf"│ {sae['name']} +│.*", printed.out)
        probe = split["figures"][0]
        judged = [split["fvu"], probe["fvu_nonlinear"], probe["r2_vector"], probe["r2_norm"]]
        assert re.findall(r"(-?\d\.\d{3}) ±", line) == [f"{figure['value']:.3f}" for figure in judged]
        assert [(f["fit_intercept"], f["ridge"]) for f in split["figures"]] == [
            (a, b) for a in (False, True) for b in (0, 10)
        ]
        assert split["figures"][0]["r2_norm"]["value"] == pytest.approx(sae["norms"]["r2"]["error"]["value"], abs=1e-9)
        assert {"token", "position", "activation_norm", "loss", "l0"} == set(split["norm_baselines"])
        assert sae["downstream"]["recovered"]["sae_and_both"]["value"] == pytest.approx(1, abs=0.01)
        assert list(sae["components"]["r2"]) == ["before"]
        assert sae["pursuit"]["fvu"]["value"] < sae["pursuit_encoder"]["fvu"]["value"]
        assert len(sae["error_saes"]["fvu"]["linear_error"]) == 3
    (horizon,) = found["horizons"]
    law = {name: horizon["law"][name]["value"] for name in ("c", "a", "m")}
    for width, absent in zip(horizon["widths"], horizon["absent"], strict=True):
        curve = law["c"] + law["a"] * width ** -law["m"]
        assert absent + horizon["linear"] + horizon["nonlinear"] == pytest.approx(curve, abs=1e-9)
    fvu = [sae["split"]["fvu"] for sae in found["saes"]]
    expected = fit_power_law(
        horizon["widths"],
        [each["value"] for each in fvu],
        standard_errors=[each["standard_error"] for each in fvu],
    )
    assert horizon["law"] == asdict(expected), "three points, with the standard errors that their FVUs have"
    assert set(found["token_scaling"]) == {"w40 -> w80", "w40 -> w160", "w80 -> w160"}
    html = (tmp_path / "darkmatter.html").read_text(encoding="utf-8")
    assert html.count('class="plotly-graph-div"') == 12
    embedded = re.search(r'<script type="application/json" id="study">(.*?)</script>', html)
    assert embedded
    assert json.loads(embedded[1]) == found


def test_one_sae_without_the_model(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(made, tmp_path, "--no-downstream", "--no-pursuit", "--split-by", "token", saes=("w80",))
    assert "FVU nonlinear (no intercept)" in capsys.readouterr().out
    found = json.loads((tmp_path / "darkmatter.json").read_text(encoding="utf-8"))
    (sae,) = found["saes"]
    assert sae["split"]["split_by"] == "token"
    assert sae["downstream"] is sae["pursuit"] is sae["components"] is sae["error_saes"] is None
    assert found["horizons"] == []
    assert found["token_scaling"] == {}


@pytest.mark.parametrize(
    ("saes", "more", "message"),
    [
        (("elsewhere",), (), "elsewhere is of site blocks.2.hook_resid_post"),
        (("w40", "before"), (), "the SAEs of one study are of one site; got w40 of blocks.1"),
        (("w40", "w40"), (), "every SAE is given once"),
        (("w40",), ("--tokens", "200"), "too few for d = 32"),
        (("w40",), ("--drop-norm-above", "0.1"), "--drop-norm-above is 0.1"),
    ],
)
def test_bad_input_is_told_in_a_line(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    saes: tuple[str, ...],
    more: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(made, tmp_path, "--no-downstream", *more, saes=saes)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []  # which stays, and means nothing


def test_another_model_and_another_text_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_bridge(tmp_path / "other", seed=1)
    with pytest.raises(SystemExit):
        run(made, tmp_path, "--model", str(tmp_path / "other"), saes=("w40",))
    assert "cache again, or pass --no-downstream" in capsys.readouterr().err
    changed = tmp_path / "sae"
    sae = SAE.load(made / "w40")
    sae.provenance = {"source": {"model": "other", "weights": "sha256:0"}}
    sae.save(changed)
    with pytest.raises(SystemExit):
        run(made, tmp_path / "out", "--no-downstream", saes=(str(changed),))
    assert "sae was trained on other (weights sha256:0)" in capsys.readouterr().err


def test_names_are_as_short_as_they_can_be(made: Path, tmp_path: Path) -> None:
    for family in ("a", "b"):
        SAE(4, 8, TopK(k=2)).save(tmp_path / family / "topk")
    assert list(load_all([tmp_path / "a" / "topk", made / "w40"])) == ["topk", "w40"]
    assert list(load_all([tmp_path / "a" / "topk", tmp_path / "b" / "topk"])) == ["a/topk", "b/topk"]
