"""Norms of several dictionaries from one run: those of an evaluation, and against the closed form."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

import interp
from saes import SAE, JumpReLU, TopK, evaluate
from saes.convert import write
from saes.latents import Latents
from saes.orthogonality import measure_norms, row_overlap
from saes.orthogonality.measuring import _of
from tests.saes.evaluation.evaluated import SITE, run, sae_at_site, text_rows


@pytest.mark.parametrize(("dimensions", "atoms", "active"), [(64, 512, 8), (256, 1024, 32)])
def test_random_supports_have_the_closed_form(dimensions: int, atoms: int, active: int) -> None:
    """Values of their own for every row; measured over 4,000 random supports, within 4 standard errors."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(atoms, dimensions, generator=generator) + 0.3  # a mean cosine that is not 0
    sae = SAE(dimensions, atoms, TopK(active))
    with torch.no_grad():
        sae.W_dec.copy_(normalize(rows, dim=1))
    indices = torch.rand(4_000, atoms, generator=generator).argsort(1)[:, :active]
    values = 0.5 - torch.rand(4_000, active, generator=generator).log()  # 0.5 + an exponential
    with torch.no_grad():
        found = _of(sae, Latents(values, indices, atoms), row_overlap(sae.W_dec))
    torch.testing.assert_close(found["values_squared"], values.double().square().sum(1), rtol=1e-5, atol=0)
    difference = (found["written_squared"] - found["random_squared"]) / found["values_squared"]
    assert float(difference.mean().abs() / (difference.std() / 4_000**0.5)) < 4
    assert float((found["random_squared"] / found["values_squared"]).mean()) > 1.3


def test_figures_are_those_of_an_evaluation(tmp_path: Path) -> None:
    model = interp.load_model("embedded")
    rows = text_rows(model.tokenizer, tmp_path)
    saes = [sae_at_site(TopK(6)), sae_at_site(JumpReLU(), d_sae=120)]
    overlaps = [row_overlap(sae.W_dec) for sae in saes]
    found = measure_norms(saes, overlaps, model, rows, first_position=1)
    for sae, its in zip(saes, found, strict=True):
        report = evaluate(sae, model, rows, first_position=1)
        assert (its.tokens, its.documents, its.site) == (report.tokens, report.documents, SITE)
        assert report.afa is not None
        assert its.afa is not None
        assert its.l0.value == pytest.approx(report.l0.value)
        for name in ("epsilon_lbo", "epsilon_lbo_median", "epsilon_lbo_reconstruction", "norm_ratio"):
            assert getattr(its.afa, name).value == pytest.approx(getattr(report.afa, name).value, rel=1e-4), name
        assert its.gap is not None
        assert its.gap.value == pytest.approx(its.afa.epsilon_lbo.value * (sae.d_sae - 1))


def test_an_orthonormal_dictionary_writes_its_norm(tmp_path: Path) -> None:
    model = interp.load_model("embedded")
    sae = sae_at_site(TopK(6), d_sae=96)
    with torch.no_grad():
        sae.W_dec.copy_(torch.linalg.qr(torch.randn(96, 96, generator=torch.Generator().manual_seed(1))).Q)
        sae.b_dec.zero_()
    (found,) = measure_norms([sae], [row_overlap(sae.W_dec)], model, text_rows(model.tokenizer, tmp_path))
    assert found.written_ratio is not None
    assert found.random_ratio is not None
    assert found.afa is not None
    assert found.written_ratio.value == pytest.approx(1, abs=1e-5)
    assert found.random_ratio.value == pytest.approx(1, abs=1e-5)
    assert found.afa.epsilon_lbo_reconstruction.value < 1e-6


def test_a_wrong_width_is_named(tmp_path: Path) -> None:
    model = interp.load_model("embedded")
    sae = SAE(8, 16, TopK(2), site=SITE)
    sae.initialise(seed=0, mean=torch.zeros(8))
    with pytest.raises(ValueError, match="width 96, here takes 8"):
        measure_norms([sae], [row_overlap(sae.W_dec)], model, text_rows(model.tokenizer, tmp_path), names=["here"])


def test_several_tools_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One SAE in three tools' files has the same figures three times; an orthonormal one comes first."""
    sae = sae_at_site(TopK(6))
    sae.provenance = {"source": {"model": "embedded"}}
    sae.save(tmp_path / "ours")
    write(sae, "saelens", tmp_path / "saelens")
    write(sae, "sparsify", tmp_path / "sparsify")
    names = [str(tmp_path / name) for name in ("ours", "saelens", "sparsify")]
    text = tmp_path / "text.txt"
    text.write_text("Emma Woodhouse, handsome, clever, and rich, had lived nearly twenty-one years. " * 20)
    page, saved = tmp_path / "page.html", tmp_path / "figures.json"
    line = ["sae", "orthogonality", *names, "--data", str(text), "--tokens", "200", "--context", "32", "--bos", "never"]
    line += ["--packing", "packed", "--model", "embedded"]
    assert run(*line, "--html", str(page), "--save", str(saved)) == 0
    shown = capsys.readouterr().out
    assert "within two standard errors" in shown
    entries = json.loads(saved.read_text())["entries"]
    assert {entry["tool"] for entry in entries} == {"deepfield", "saelens", "sparsify"}
    first = entries[0]["norms"]
    for entry in entries[1:]:
        assert entry["norms"]["afa"]["epsilon_lbo"]["value"] == pytest.approx(first["afa"]["epsilon_lbo"]["value"])
        assert entry["norms"]["tokens"] == first["tokens"]
    assert "ZF plots" in page.read_text()
    assert run("sae", "orthogonality", *names, "--json") == 0
    alone = json.loads(capsys.readouterr().out)["entries"]
    assert [entry["norms"] for entry in alone] == [None] * 3
    assert run("sae", "orthogonality", names[0], names[0]) == 2
    assert "named twice" in capsys.readouterr().err
    assert run("sae", "orthogonality") == 2
