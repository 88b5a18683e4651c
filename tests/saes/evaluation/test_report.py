"""Evaluation against the same figures computed the long way, through hooks on the plain Hugging Face modules."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interp.embedded import MODEL_FOLDER, steps
from interp.models.source import source_of
from interp.tokens.token_rows import TokenRows
from saes import SAE, ReLU, TopK
from saes.activations import Activation
from saes.commands.inputs import open_inputs
from saes.commands.options import TextOptions
from saes.evaluation.breakdown import Figures, by_position
from saes.evaluation.page import build_page
from saes.evaluation.report import Report, evaluate
from saes.evaluation.table import tables
from tests.saes.evaluation.evaluated import CONTEXT, SITE, WIDTH, run, sae_at_site, text_rows
from tests.saes.evaluation.test_feature_norms import table
from tests.saes.variants import VARIANTS


@pytest.fixture
def rows(embedded: Any, tmp_path: Path) -> TokenRows:
    return text_rows(embedded.tokenizer, tmp_path)


def identity_sae(*, layer_norm: bool = False) -> SAE:
    """Latents are the positive and the negative parts of each coordinate: nothing is lost, and the rows that are
    active together are orthonormal."""
    sae = SAE(WIDTH, 2 * WIDTH, ReLU(), site=SITE, layer_norm=layer_norm)
    signed = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    with torch.no_grad():
        sae.W_dec.copy_(signed)
        sae.W_enc.copy_(signed.T)
    return sae


@torch.no_grad()
def plain_logits(model: Any, ids: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Logits with the output of block 2 changed, and that output before the change."""
    seen = []

    def hook(module: Any, arguments: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden)
        return (change(hidden), *output[1:]) if isinstance(output, tuple) else change(hidden)

    plain = model.original_model
    handle = plain.gpt_neox.layers[2].register_forward_hook(hook)
    try:
        return plain(ids).logits, seen[0]
    finally:
        handle.remove()


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    picked = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    return functional.pad(-picked, (0, 1))


def close(estimate: Any, value: Tensor | float) -> None:
    assert estimate.value == pytest.approx(float(value), rel=2e-4, abs=2e-5)


def check_part(figures: Figures, at: Tensor, x: Tensor, x_hat: Tensor, mean: Tensor, *, clean: Tensor, spliced: Tensor,
               predicts: Tensor, l0: Tensor) -> None:  # fmt: skip
    """Figures of the tokens ``at`` by their definitions."""
    assert figures.tokens == int(at.sum())
    close(figures.fvu, (x - x_hat)[at].square().sum() / (x - mean)[at].square().sum())
    close(figures.cosine, functional.cosine_similarity(x, x_hat, dim=-1)[at].mean())
    close(figures.l0, l0[at].float().mean())
    predicting = at & predicts
    if predicting.any():
        close(figures.ce_clean, clean[predicting].mean())
        close(figures.ce_difference, (spliced - clean)[predicting].mean())
    else:
        assert figures.ce_difference is None


@pytest.mark.parametrize("first_position", [0, 2])
def test_every_part_by_definition(
    embedded: Any, rows: TokenRows, monkeypatch: pytest.MonkeyPatch, first_position: int
) -> None:
    """With massive taken to start at 1.2 times the median norm, some tokens of this text are."""
    monkeypatch.setattr("saes.evaluation.token_table.MASSIVE_TIMES", 1.2)
    sae = sae_at_site(TopK(8))
    report = evaluate(sae, embedded, rows, first_position=first_position, batch_rows=3)
    ids, kept = rows.tensor_of("ids"), rows.tensor_of("documents") >= 0
    assert not kept.all(), "there is padding"
    kept[:, :first_position] = False
    clean_logits, x = plain_logits(embedded, ids, lambda hidden: hidden)
    with torch.no_grad():
        x_hat, l0 = sae(x), sae.encode(x).l0
    norm = x.norm(dim=-1)
    massive = (norm > 1.2 * norm[kept].median()) & kept
    assert 0 < massive.sum() < kept.sum() / 2
    assert report.massive_norm == pytest.approx(1.2 * float(norm[kept].median()))
    assert (report.tokens, report.documents) == (int(kept.sum()), len(rows.ids))

    def spliced(replacement: Tensor, where: Tensor) -> Tensor:
        return losses(plain_logits(embedded, ids, lambda h: torch.where(where[..., None], replacement, h))[0], ids)

    predicts = kept & functional.pad(kept[:, 1:], (0, 1))
    clean, whole = losses(clean_logits, ids), spliced(x_hat, kept)
    zero, at_mean = spliced(torch.zeros(WIDTH), kept), spliced(x[kept].mean(0), kept)
    close(report.fvu, (x - x_hat)[kept].square().sum() / (x[kept] - x[kept].mean(0)).square().sum())
    close(report.mse, (x - x_hat)[kept].square().mean())
    for name, value in (("ce_clean", clean), ("ce_spliced", whole), ("ce_zero", zero), ("ce_mean", at_mean)):
        close(getattr(report, name), value[predicts].mean())
    close(report.ce_difference, (whole - clean)[predicts].mean())
    close(report.ce_recovered_zero, (zero - whole)[predicts].mean() / (zero - clean)[predicts].mean())
    close(report.ce_recovered_mean, (at_mean - whole)[predicts].mean() / (at_mean - clean)[predicts].mean())

    ordinary = kept & ~massive
    shared = {"x": x, "x_hat": x_hat, "mean": x[ordinary].mean(0), "clean": clean, "predicts": predicts, "l0": l0}
    check_part(report.without_massive, ordinary, spliced=spliced(x_hat, ordinary), **shared)  # type: ignore[arg-type]
    assert report.only_massive is not None
    check_part(report.only_massive, massive, spliced=whole, **shared)  # type: ignore[arg-type]
    assert sum(part.figures.tokens for part in report.positions) == report.tokens
    for part in report.positions:
        inside = torch.zeros_like(kept)
        inside[:, part.first : part.last + 1] = True
        check_part(part.figures, kept & inside, spliced=whole, **shared)  # type: ignore[arg-type]


@pytest.mark.parametrize(("times", "passes"), [(10.0, 4), (1.2, 5)])
def test_the_model_runs_once_a_batch_for_each_loss(
    embedded: Any, rows: TokenRows, monkeypatch: pytest.MonkeyPatch, times: float, passes: int
) -> None:
    """Clean, spliced, zero and mean; and spliced without massive tokens where there are some."""
    monkeypatch.setattr("saes.evaluation.token_table.MASSIVE_TIMES", times)
    embedding, runs = functional.embedding, []
    monkeypatch.setattr(functional, "embedding", lambda *args, **kw: runs.append(1) or embedding(*args, **kw))
    sae = sae_at_site(TopK(8))
    evaluate(sae, embedded, rows, batch_rows=len(rows.ids))
    assert len(runs) == passes


def test_a_target_that_runs_before_what_is_read(embedded: Any, rows: TokenRows) -> None:
    sae = SAE(WIDTH, 64, TopK(4), subtract_b_dec=False, site=SITE, target_site="blocks.1.hook_resid_post")
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_post runs before blocks\.2"):
        evaluate(sae, embedded, rows)


def test_without_massive_tokens_nothing_changes(embedded: Any, rows: TokenRows) -> None:
    report = evaluate(sae_at_site(TopK(8)), embedded, rows)
    assert report.only_massive is None
    assert report.without_massive.fvu == report.fvu
    assert report.without_massive.l0 == report.l0
    assert report.without_massive.tokens == report.tokens


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_perfect_sae(embedded: Any, rows: TokenRows, layer_norm: bool) -> None:
    report = evaluate(identity_sae(layer_norm=layer_norm), embedded, rows)
    assert report.fvu.value == pytest.approx(0, abs=1e-9)
    assert report.l0.value == WIDTH
    assert report.ce_recovered_zero.value == pytest.approx(1, abs=1e-5)
    assert all(part.figures.ce_difference.value == pytest.approx(0, abs=1e-5)  # type: ignore[union-attr]
               for part in report.positions if part.figures.ce_difference is not None)  # fmt: skip
    assert report.afa is not None
    assert report.afa.epsilon_lbo.value < 1e-8
    assert report.afa.norm_ratio.value == pytest.approx(1)
    assert all(band.inside.value == 1 for band in report.afa.bands)


def test_a_silent_sae_has_no_feature_norms(embedded: Any, rows: TokenRows) -> None:
    """Zero weights: the reconstruction is 0, so splicing it in is zero ablation."""
    report = evaluate(SAE(WIDTH, 2 * WIDTH, TopK(8), site=SITE), embedded, rows)
    assert report.afa is None
    assert report.l0.value == 0
    assert report.ce_spliced == report.ce_zero
    assert all(part.figures.epsilon_lbo is None for part in report.positions)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_feature_norms_of_every_variant(embedded: Any, rows: TokenRows, variant: Activation) -> None:
    sae = sae_at_site(variant)
    report = evaluate(sae, embedded, rows)
    kept = rows.tensor_of("documents") >= 0
    x = plain_logits(embedded, rows.tensor_of("ids"), lambda hidden: hidden)[1][kept]
    with torch.no_grad():
        f = ((sae.encode(x).to_dense() * sae.W_dec.norm(dim=-1)).square().sum(-1) + sae.b_dec.square().sum()).sqrt()
    z = x.norm(dim=-1)
    assert report.afa is not None
    assert report.afa.z_norms == pytest.approx(z.tolist(), rel=1e-4)
    assert report.afa.f_norms == pytest.approx(f.tolist(), rel=1e-3)
    close(report.afa.epsilon_lbo, ((z**2 - f**2).abs() / (f**2 * (sae.d_sae - 1))).mean())
    close(report.afa.under_activated, (f < z).float().mean())


def test_a_transcoder_stands_in_at_its_target(embedded: Any, rows: TokenRows) -> None:
    """It reads block 1's output and writes block 2's: with its input as the skip, splicing drops block 2."""
    sae = SAE(WIDTH, 64, TopK(4), subtract_b_dec=False, skip=True, site="blocks.1.hook_resid_post", target_site=SITE)
    with torch.no_grad():
        sae.W_skip.copy_(torch.eye(WIDTH))
    report = evaluate(sae, embedded, rows)
    ids, kept = rows.tensor_of("ids"), rows.tensor_of("documents") >= 0
    before: list[Tensor] = []
    handle = embedded.original_model.gpt_neox.layers[2].register_forward_pre_hook(lambda _, a: before.append(a[0]))
    logits, after = plain_logits(embedded, ids, lambda hidden: torch.where(kept[..., None], before[0], hidden))
    handle.remove()
    predicts = kept & functional.pad(kept[:, 1:], (0, 1))
    close(report.ce_spliced, losses(logits, ids)[predicts].mean())
    spread = (after[kept] - after[kept].mean(0)).square().sum()
    close(report.fvu, (after - before[0])[kept].square().sum() / spread)


def test_positions_double() -> None:
    parts = by_position(table(z_squared=[1.0] * 20, positions=list(range(20)), cosine=[0.5] * 20), d_sae=4)
    assert [(part.first, part.last) for part in parts] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 19)]
    assert all(part.figures.tokens == part.last - part.first + 1 for part in parts)
    assert parts[0].figures.fvu is None, "nothing varies"
    gap = by_position(table(z_squared=[1.0] * 2, positions=[0, 9]), d_sae=4)
    assert [(part.first, part.last) for part in gap] == [(0, 0), (8, 9)]


def test_the_standard_error_of_one_document_is_over_blocks_of_tokens(
    embedded: Any, rows: TokenRows, tmp_path: Path
) -> None:
    report = evaluate(sae_at_site(TopK(8)), embedded, rows, max_tokens=CONTEXT)
    assert report.documents == 1
    assert report.fvu.blocks
    assert report.fvu.n == round(CONTEXT**0.5)
    assert 0 < report.fvu.standard_error < report.fvu.value
    assert report.afa is not None
    assert report.afa.epsilon_lbo_median.blocks
    assert 0 < report.afa.epsilon_lbo_median.standard_error < math.inf
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["fvu"]["blocks"] is True
    assert plain["positions"][0]["figures"]["l0"]["standard_error"] is None, "of one token"
    said = "blocks of neighbouring tokens (fewer than 5 documents)"
    assert said in str(next(tables(report, title="SAE")).title)
    assert said in build_page(report, title="SAE", data="text").write(tmp_path / "page.html").read_text()
    assert plain["positions"][2]["first"] == 2


@pytest.mark.parametrize(
    ("sae", "options", "message"),
    [
        (SAE(WIDTH, 8, TopK(2)), {}, "does not say which site"),
        (SAE(12, 24, TopK(2), site=SITE), {}, "have width 96, the SAE's is 12"),
        (SAE(WIDTH, 24, TopK(2), site="blocks.9.hook_resid_post"), {}, "blocks.9"),
        (SAE(WIDTH, 24, TopK(2), site="blocks.1.hook_resid_mid"), {}, "resid_mid"),
        (SAE(WIDTH // 3, 24, TopK(2), site="blocks.1.attn.hook_z[7]"), {}, "7"),
        (SAE(WIDTH, 24, TopK(2), site=SITE, target_site="blocks.4.hook_mlp_out", subtract_b_dec=False), {}, "blocks.4"),
        (SAE(WIDTH, 24, TopK(2), site=SITE), {"max_tokens": 0}, "no token to evaluate on"),
        (SAE(WIDTH, 24, TopK(2), site=SITE), {"first_position": CONTEXT - 1}, f"first_position is {CONTEXT - 1};"),
        (SAE(WIDTH, 24, TopK(2), site=SITE).to("meta"), {}, "this SAE is on meta, the model on cpu"),
    ],
)
def test_what_cannot_be_measured(
    embedded: Any, rows: TokenRows, sae: SAE, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(sae, embedded, rows, **options)


def test_command_writes_figures_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str], embedded: Any) -> None:
    text_rows(embedded.tokenizer, tmp_path)
    sae_at_site(TopK(8)).save(tmp_path / "sae")
    out, page = tmp_path / "report.json", tmp_path / "page.html"
    command = ["eval", str(tmp_path / "sae"), "--model", "embedded", "--data", str(tmp_path / "text.jsonl")]
    text = ["--bos", "never", "--packing", "document", "--context", str(CONTEXT)]
    assert run(*command, *text, "--save", str(out), "--html", str(page)) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert {"afa", "positions", "without_massive", "only_massive", "fvu"} <= set(report)
    assert set(report) == {"text", "data", "sae"} | set(Report.__dataclass_fields__)
    assert "ε_LBO, median" in printed
    assert "positions 16-23" in printed
    html = page.read_text(encoding="utf-8")
    own = html.replace(max(re.findall(r"<script>.*?</script>", html, flags=re.S), key=len), "")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    stored = re.search(r'<script type="application/json" id="report">(.*?)</script>', html, flags=re.S)
    assert stored
    assert json.loads(stored[1]) == {
        name: value for name, value in report.items() if name in Report.__dataclass_fields__
    }
    for title in ("ZF plot", "Active latents a token", "How often latents are active", "Loss added by the SAE"):
        assert title in html


def test_the_model_is_the_checkpoint_that_the_sae_was_trained_on(tmp_path: Path, embedded: Any) -> None:
    text_rows(embedded.tokenizer, tmp_path)
    sae = sae_at_site(TopK(8))
    sae.provenance = {"source": {"model": "embedded", "revision": "step512"}}
    sae.save(tmp_path / "sae")
    for options, revision in (
        (TextOptions(), "step512"),
        (TextOptions(revision="step16"), "step16"),
        (TextOptions(model=str(MODEL_FOLDER)), f"step{steps()[-1]}"),  # of another model its own, the last
    ):
        with open_inputs(tmp_path / "sae", data=tmp_path / "text.jsonl", tokens=100, options=options) as inputs:
            assert source_of(inputs.model).revision == revision
