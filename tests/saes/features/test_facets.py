"""A latent's facets on its page are those that ``interp.facets`` finds for the same unit."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import facets
from interp.embedded import TEXT_FOLDER
from interp.facets import clustering
from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.tokens.token_rows import write_token_rows
from saes import SAE
from saes.activations import ReLU, TopK
from saes.features.book import look_up
from saes.features.examples import Text
from saes.features.page import write_feature_page
from tests.saes.evaluation.evaluated import CONTEXT, WIDTH, run, sae_at_site, text_rows
from tests.saes.features.test_page import content_of

SITE = "blocks.2.hook_resid_pre"
LATENTS = (3, 40)


@pytest.fixture
def text(embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Text:
    monkeypatch.setattr(clustering, "_NULLS", 2)
    rows = write_token_rows(
        TEXT_FOLDER / "heldout.jsonl", embedded.tokenizer, tmp_path / "rows", tokens=1_280, context=32
    )
    return Text(model=embedded, rows=rows, site=Site.parse(SITE))


def identity() -> SAE:
    """Latent i is the positive part of dimension i of what it reads."""
    sae = SAE(WIDTH, WIDTH, ReLU(), site=SITE).initialise(seed=0, mean=torch.zeros(WIDTH))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(WIDTH))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def test_they_are_those_of_the_unit(text: Text, tmp_path: Path) -> None:
    sae = identity()
    book = look_up(sae, text, latents=LATENTS, examples=6, facets=True)
    tokens = text.rows.tensor_of("ids")
    cache = capture(text.model, tokens, [SITE])[SITE]
    several = 0
    assert book.facets is not None
    html = write_feature_page(book, tmp_path / "p.html", title="t", data="d", text_of=str).read_text(encoding="utf-8")
    for latent, its, entry in zip(LATENTS, book.facets, content_of(html)["latents"], strict=True):
        contexts = facets.contexts_of(text.model, tokens, SITE, latent)
        expected = facets.facets(contexts.vectors, contexts.activation, direction=torch.eye(WIDTH)[latent])
        assert its.found is not None
        assert its.contexts == expected.n == len(contexts.sequence)
        assert [each.members for each in its.found.facets] == [each.members for each in expected.facets]
        assert its.found.silhouette == pytest.approx(expected.silhouette, abs=1e-5)
        assert its.found.null_silhouette == pytest.approx(expected.null_silhouette, abs=1e-5)
        assert str(its.found.stability) == str(expected.stability)
        shown = entry["facets"]
        assert [each["share"] for each in shown["facets"]] == [str(each.share) for each in expected.facets]
        assert shown["silhouette"] == pytest.approx(expected.silhouette, abs=1e-3)
        several += len(expected.facets) > 1
        for facet, examples, part in zip(expected.facets, its.examples, shown["facets"], strict=True):
            first = facet.members[0]
            at = examples[0]
            assert (at.row, at.position) == (int(contexts.sequence[first]), int(contexts.position[first]))
            assert at.activation == pytest.approx(float(contexts.activation[first]), rel=1e-4)
            assert at.ids == tuple(tokens[at.row, at.first : at.first + len(at.ids)].tolist())
            members = {(int(contexts.sequence[each]), int(contexts.position[each])) for each in facet.members}
            assert {(each.row, each.position) for each in examples} <= members
            assert [each["row"] for each in part["examples"]] == [each.row for each in examples]
            assert 1 <= len(examples) <= 3
            acts = cache[at.row, at.first : at.first + len(at.ids), latent].relu()
            assert torch.allclose(torch.tensor(at.activations), acts, atol=1e-5)
    assert several


def test_few_contexts_and_equal_ones(text: Text, tmp_path: Path) -> None:
    """Neither is clustered, and a silhouette that is not finite leaves the page's JSON whole."""
    rare, equal = identity(), identity()
    with torch.no_grad():
        rare.b_enc.fill_(-1e6)
        equal.W_enc.zero_()
        equal.b_enc.fill_(1.0)
    (its,) = look_up(rare, text, latents=[3], facets=True).facets or ()
    assert (its.contexts, its.found, its.examples) == (0, None, ())
    book = look_up(equal, text, latents=[3], facets=True)
    assert book.facets is not None
    assert book.facets[0].found is not None
    nothing = replace(book.facets[0].found, silhouette=-math.inf, null_silhouette=math.nan)
    book = replace(book, facets=(replace(book.facets[0], found=nothing),))
    html = write_feature_page(book, tmp_path / "p.html", title="t", data="d", text_of=str).read_text(encoding="utf-8")
    (entry,) = content_of(html)["latents"]
    assert (entry["facets"]["silhouette"], entry["facets"]["null"]) == (None, None)


def test_the_command(embedded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text_rows(embedded.tokenizer, tmp_path)
    sae_at_site(TopK(8)).save(tmp_path / "sae")
    page = tmp_path / "a.html"
    command = ["sae", "features", str(tmp_path / "sae"), "--model", "embedded", "--data", str(tmp_path / "text.jsonl")]
    command += ["--bos", "never", "--packing", "document", "--context", str(CONTEXT), "--latents", "3", "--facets"]
    assert run(*command, "--html", str(page)) == 0
    assert "200 contexts of each latent shown are clustered" in capsys.readouterr().out
    (entry,) = content_of(page.read_text(encoding="utf-8"))["latents"]
    assert 0 <= entry["facets"]["contexts"] <= 8  # two of each of four rows: too few
    assert "facets" not in entry["facets"]
    assert run(*command, "--export", str(tmp_path / "e")) == 2
    assert "--facets are shown on a page: give --html too" in capsys.readouterr().err
