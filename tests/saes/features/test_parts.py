"""Latents of dictionaries over several places: counts, where they write, and what that does to the logits."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import capture
from interp.sites.site import Site
from saes import SAE
from saes.features.examples import Text
from saes.features.logit_effects import logit_effects, through_final_norm
from saes.features.page import write_feature_page
from saes.features.parts import look_up_parts, to_residual_stream
from saes.places import Dictionary, save_dictionary
from tests.saes.evaluation.evaluated import CONTEXT, run, text_rows
from tests.saes.places.test_evaluation import dictionary_of


def text_of(embedded: Any, tmp_path: Path) -> Text:
    return Text(model=embedded, rows=text_rows(embedded.tokenizer, tmp_path), site=())


@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
@torch.no_grad()
def test_every_part_is_looked_up_where_it_reads(kind: str, embedded: Any, tmp_path: Path) -> None:
    dictionary, text = dictionary_of(kind).eval(), text_of(embedded, tmp_path)
    dictionary.fold_scales([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    books = look_up_parts(dictionary, text, max_latents=20, examples=2)
    assert [book.part for book in books] == list(range(len(dictionary.parts)))
    ids, kept = text.rows.tensor_of("ids"), text.rows.tensor_of("documents") >= 0
    found = capture(embedded, ids, dictionary.layout.reads, attention_mask=kept)
    latents = dictionary.encode([found[Site.parse(name)] for name in dictionary.layout.reads])
    for book, (part, places), its in zip(books, dictionary.placed(), latents, strict=True):
        dense = its.to_dense() * kept[..., None]
        assert torch.equal(book.counts.active, (dense != 0).sum((0, 1)))
        assert book.written == tuple(dictionary.layout.writes[i] for i in places.writes)
        assert len(book.latents) == max(1, 20 // len(books))
        for latent, norms, examples in zip(book.latents, book.norms, book.examples, strict=True):
            rows = [part.at_place(i)[latent] * part.norm_scales[i] for i in range(len(places.writes))]
            assert norms == pytest.approx([float(row.norm()) for row in rows], rel=1e-5)
            assert examples[0].activation == pytest.approx(float(dense[..., latent].max()), rel=1e-5)


def test_what_is_written_at_several_layers_adds_up(embedded: Any) -> None:
    """A CLT's rows for the outputs of MLPs are summed; of a crosscoder of the residual stream the last one counts."""
    clt, crosscoder = dictionary_of("clt"), dictionary_of("crosscoder")
    places = [Site.parse(name) for name in clt.layout.writes]
    part = clt.parts[1]
    added = to_residual_stream(part, places[1:])
    expected = sum(part.W_dec[:, 96 * i : 96 * (i + 1)] for i in range(3))
    torch.testing.assert_close(added, expected)
    last = to_residual_stream(crosscoder.parts[0], [Site.parse(name) for name in crosscoder.layout.writes])
    assert last is not None
    assert torch.equal(last, crosscoder.parts[0].W_dec[:, -96:])
    assert to_residual_stream(part, [Site.parse(f"blocks.{i}.mlp.hook_post") for i in (1, 2, 3)]) is None


def test_a_sets_effects_are_those_of_its_transcoder(embedded: Any, tmp_path: Path) -> None:
    dictionary = dictionary_of("transcoders", skip=False)
    books = look_up_parts(dictionary, text_of(embedded, tmp_path), latents=[(2, 7), (2, 3)])
    assert [book.latents for book in books] == [(), (), (7, 3), ()]
    part = dictionary.parts[2]
    alone = SAE(96, 200, part.activation, subtract_b_dec=False, site="blocks.2.mlp.hook_in")
    alone.target_site = "blocks.2.hook_mlp_out"
    with torch.no_grad():
        alone.W_dec.copy_(part.W_dec)
    assert list(books[2].effects or ()) == logit_effects(alone, embedded, [7, 3])
    logits = through_final_norm(embedded, part.W_dec[7:8]) @ embedded.W_U
    assert books[2].effects is not None
    assert books[2].effects[0].raised[0][0] == int(logits.argmax())


def content_of(page: Path) -> Any:
    stored = re.search(
        r'<script type="application/json" id="content">(.*?)</script>', page.read_text(encoding="utf-8"), flags=re.S
    )
    assert stored
    return json.loads(stored[1])


def test_page_names_part_and_latent(embedded: Any, tmp_path: Path) -> None:
    books = look_up_parts(dictionary_of("clt"), text_of(embedded, tmp_path), max_latents=8, examples=1)
    content = content_of(write_feature_page(books, tmp_path / "p.html", title="t", data="d", text_of=str))
    assert [entry["id"] for entry in content["latents"]] == [f"{b.part}/{n}" for b in books for n in b.latents]
    assert content["subtitle"].startswith("4 parts · ")
    assert content["scope"].startswith("8 of 800 latents, evenly spread")
    first = content["latents"][0]
    assert [place for place, _ in first["written"]] == [f"blocks.{layer}.hook_mlp_out" for layer in range(4)]
    assert first["nearest"][0][0].startswith("0/")
    assert "added up" in content["note"]


def test_what_is_not_there_is_named(embedded: Any, tmp_path: Path) -> None:
    text, clt = text_of(embedded, tmp_path), dictionary_of("clt")
    with pytest.raises(ValueError, match=r"no latent 200 of part 1: parts are 0 to 3, latents 0 to 199"):
        look_up_parts(clt, text, latents=[(1, 200)])
    with torch.no_grad():
        for part in clt.parts:
            part.W_enc.zero_()
            part.b_enc.fill_(-1)
    with pytest.raises(ValueError, match="no latent is active on these"):
        look_up_parts(clt, text)
    two = Dictionary(
        type(clt.layout)("crosscoder", ("0:blocks.1.hook_resid_post", "1:blocks.1.hook_resid_post"),
                         ("0:blocks.1.hook_resid_post", "1:blocks.1.hook_resid_post")),
        ((96, 96), (96, 96)), d_sae=20, activation=clt.activation,
    )  # fmt: skip
    with pytest.raises(ValueError, match="are places of several models"):
        look_up_parts(two, text)


def test_command(embedded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text_rows(embedded.tokenizer, tmp_path)
    save_dictionary(dictionary_of("clt"), tmp_path / "clt")
    command = ["sae", "features", str(tmp_path / "clt"), "--data", str(tmp_path / "text.jsonl")]
    options = ["--bos", "never", "--packing", "document", "--context", str(CONTEXT), "--out", str(tmp_path / "a.html")]
    assert run(*command, *options, "--latents", "3/150,0/0") == 0
    assert f"2 latents in {tmp_path / 'a.html'}" in capsys.readouterr().out
    content = content_of(tmp_path / "a.html")
    assert [entry["id"] for entry in content["latents"]] == ["0/0", "3/150"]
    assert content["title"] == "Latents of clt, topk clt on embedded"
    assert run(*command, *options, "--latents", "150") == 2
    assert "there are 4 parts; give the part of each, such as 0/150" in capsys.readouterr().err
