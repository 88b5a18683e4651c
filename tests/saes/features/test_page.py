"""The browser of latents: what is in the file, and that no token can be more than text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.sites.site import Site
from saes import TopK
from saes.features.book import FeatureBook, look_up
from saes.features.examples import Text
from saes.features.page import token_texts, write_feature_page
from tests.saes.evaluation.evaluated import CONTEXT, SITE, run, sae_at_site, text_rows

EVIL = "</script><img src=x onerror=alert(1)>"


def content_of(html: str) -> Any:
    stored = re.search(r'<script type="application/json" id="content">(.*?)</script>', html, flags=re.S)
    assert stored
    return json.loads(stored[1])


@pytest.fixture
def book(embedded: Any, tmp_path: Path) -> FeatureBook:
    text = Text(model=embedded, rows=text_rows(embedded.tokenizer, tmp_path), site=Site.parse(SITE))
    return look_up(sae_at_site(TopK(8)), text, max_latents=20, examples=3)


def test_tokens_are_never_markup(book: FeatureBook, tmp_path: Path) -> None:
    page = write_feature_page(book, tmp_path / "page.html", title=EVIL, data=EVIL, text_of=lambda token: EVIL)
    html = page.read_text(encoding="utf-8")
    assert "<img" not in html
    assert html.count("</script>") == 2
    content = content_of(html)
    assert set(content["vocabulary"]) == {EVIL}
    assert content["title"] == EVIL
    assert [path.name for path in tmp_path.glob("*.html")] == ["page.html"]


def test_the_script_writes_text_alone_and_fetches_nothing(book: FeatureBook, tmp_path: Path) -> None:
    html = write_feature_page(book, tmp_path / "p.html", title="t", data="d", text_of=str).read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp|import\(", html
    )
    assert not re.search(r"(src|href)=|url\(|https?:|//[a-z]+\.", html)
    assert "textContent" in html


def test_content_is_what_was_found(book: FeatureBook, tmp_path: Path) -> None:
    html = write_feature_page(book, tmp_path / "p.html", title="t", data="d", text_of=str).read_text(encoding="utf-8")
    content = content_of(html)
    assert content["measured"] == book.counts.tokens
    assert "20 of 200 latents, evenly spread from the densest to the rarest of the" in content["scope"]
    assert [entry["id"] for entry in content["latents"]] == list(book.latents)

    def ids(indices: list[int]) -> list[int]:
        return [int(content["vocabulary"][index]) for index in indices]

    assert book.effects is not None
    for entry, examples, effects in zip(content["latents"], book.examples, book.effects, strict=True):
        assert entry["active"] == int(book.counts.active[entry["id"]])
        assert entry["max"] == pytest.approx(examples[0].activation, rel=0.01)
        assert ids([token for token, _ in entry["raised"]]) == [token for token, _ in effects.raised]
        for shown, example in zip(entry["examples"], examples, strict=True):
            assert tuple(ids(shown["tokens"])) == example.ids
            assert shown["acts"] == pytest.approx(example.activations, rel=0.01)
            assert shown["acts"][shown["peak"]] == max(shown["acts"])


def test_explanations_are_shown_where_there_are_any(book: FeatureBook, tmp_path: Path) -> None:
    notes = {
        book.latents[1]: {"text": EVIL, "by": "a judge", "scores": ["detection 0.90 ± 0.05"]},
        10_000: {"text": ""},
    }
    names: dict[str, Any] = {"title": "t", "data": "d", "text_of": str}
    html = write_feature_page(book, tmp_path / "p.html", notes=notes, **names).read_text(encoding="utf-8")
    assert "<img" not in html
    said = [entry.get("said") for entry in content_of(html)["latents"]]
    assert said[1] == notes[book.latents[1]]
    assert said[:1] + said[2:] == [None] * (len(said) - 1)


def test_silent_latents(embedded: Any, tmp_path: Path) -> None:
    """Asked for by number they are shown as silent; otherwise there is nothing to choose from."""
    sae = sae_at_site(TopK(8))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.zero_()
    text = Text(model=embedded, rows=text_rows(embedded.tokenizer, tmp_path), site=Site.parse(SITE))
    book = look_up(sae, text, latents=[4, 4, 2])
    assert (book.latents, book.examples) == ((4, 2), ((), ()))
    html = write_feature_page(book, tmp_path / "p.html", title="t", data="d", text_of=str).read_text(encoding="utf-8")
    assert content_of(html)["scope"] == "2 of 200 latents, as asked for; 0 are active on this text."
    with pytest.raises(ValueError, match="no latent is active on these"):
        look_up(sae, text)


def test_token_texts(embedded: Any) -> None:
    text = token_texts(embedded.tokenizer)
    ids = embedded.tokenizer("the old house", add_special_tokens=False).input_ids
    assert "".join(map(text, ids)) == "the old house"
    assert token_texts(None)(17) == "[17]"

    class SentencePiece:
        def convert_ids_to_tokens(self, token: int) -> str:
            return ["▁old", "er"][token]

        def decode(self, ids: list[int]) -> str:
            return ["old", "er"][ids[0]]

    assert [token_texts(SentencePiece())(token) for token in (0, 1)] == [" old", "er"]


def test_command(embedded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text_rows(embedded.tokenizer, tmp_path)
    sae_at_site(TopK(8)).save(tmp_path / "sae")
    command = ["sae", "features", str(tmp_path / "sae"), "--model", "embedded", "--data", str(tmp_path / "text.jsonl")]
    options = ["--bos", "never", "--packing", "document", "--context", str(CONTEXT), "--out", str(tmp_path / "a.html")]
    assert run(*command, *options, "--latents", "3,150,0") == 0
    assert f"3 latents in {tmp_path / 'a.html'}" in capsys.readouterr().out
    content = content_of((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in content["latents"]] == [3, 150, 0]
    assert run(*command, *options, "--max-latents", "7", "--examples", "1") == 0
    content = content_of((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert len(content["latents"]) == 7
    assert all(len(entry["examples"]) == 1 for entry in content["latents"])
    assert run(*command, *options, "--latents", "3,x") == 2
    assert "--latents 3,x: numbers with commas" in capsys.readouterr().err
    assert run(*command, *options, "--latents", "200") == 2
    assert "there is no latent 200" in capsys.readouterr().err
