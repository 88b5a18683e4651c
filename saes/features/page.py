"""A browser of latents in one HTML file: it needs no network, and shows every token as text, whatever is in it.

The numbers and texts are one JSON block; the script beside this, ``page.js``, shows them, and writes to the page
through ``textContent`` alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.pages.templates import render, write_html
from interp.sites.site import Site
from saes.features.attention import last_attention_before
from saes.features.book import FeatureBook
from saes.features.examples import Example
from saes.features.logit_effects import NOTE
from saes.features.misses import Misses

if TYPE_CHECKING:
    from saes.features.facets import LatentFacets


def token_texts(tokenizer: Any) -> Callable[[int], str]:
    """How a token reads inside a text; ``[id]`` where the model has no tokenizer."""
    if tokenizer is None:
        return lambda token: f"[{token}]"

    def text(token: int) -> str:
        raw, decoded = tokenizer.convert_ids_to_tokens(token), tokenizer.decode([token])
        # Alone, a SentencePiece token loses the space that it brings in a text.
        return f" {decoded}" if str(raw).startswith("▁") and not decoded.startswith(" ") else decoded

    return text


def write_feature_page(
    book: FeatureBook | Sequence[FeatureBook],
    path: str | Path,
    *,
    title: str,
    data: str,
    text_of: Callable[[int], str],
    notes: Mapping[Any, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the page, atomically; ``data`` names the text. Returns its absolute path.

    Several books are those of the parts of a dictionary over several places, from ``look_up_parts``. ``notes`` are the
    explanations of an SAE's latents, from ``saes.explanations.read_notes``; of several parts by part and latent, "0/5".

    Example:
        >>> import interp, saes
        >>> import torch
        >>> from saes.features.book import look_up
        >>> from saes.features.examples import Text
        >>> from saes.features.page import token_texts
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> book = look_up(sae, Text(model=model, rows=rows, site=interp.Site.parse(sae.site)), max_latents=5)
        >>> names = {"title": "Mine", "data": "held out", "text_of": token_texts(model.tokenizer)}
        >>> path = saes.write_feature_page(book, "page.html", **names)
        >>> path.name
        'page.html'
    """
    content = _content([book] if isinstance(book, FeatureBook) else book, title, data, text_of)
    for entry in content["latents"]:
        if notes is not None and entry["id"] in notes:
            entry["said"] = dict(notes[entry["id"]])
    return write_html(path, render(Path(__file__).parent, "page.html.jinja", title=title, content=content))


def _content(books: Sequence[FeatureBook], title: str, data: str, text_of: Callable[[int], str]) -> dict[str, Any]:
    vocabulary: dict[int, int] = {}

    def index(token: int) -> int:
        """Of a token's text in the block, which holds each once."""
        return vocabulary.setdefault(token, len(vocabulary))

    def effects(pairs: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        return [(index(token), _rounded(value)) for token, value in pairs]

    def passages(examples: Sequence[Example]) -> list[dict[str, Any]]:
        return [
            {
                "row": example.row,
                "position": example.position,
                "peak": example.position - example.first,
                "tokens": [index(token) for token in example.ids],
                "acts": [_rounded(value) for value in example.activations],
            }
            for example in examples
        ]

    def missed(misses: Misses) -> dict[str, Any]:
        return {
            "typical": None if misses.typical is None else round(misses.typical, 2),
            "fires": misses.fires,
            "silent": misses.silent,
            "examples": passages(misses.examples),
            "cosines": [round(cosine, 2) for cosine in misses.cosines],
        }

    def faceted(its: "LatentFacets") -> dict[str, Any]:
        if its.found is None:
            return {"contexts": its.contexts}
        return {
            "contexts": its.contexts,
            "more": its.may_be_more,
            "silhouette": _finite(its.found.silhouette),
            "null": _finite(its.found.null_silhouette),
            "stability": its.found.stability and str(its.found.stability),
            "facets": [
                {"share": str(facet.share), "activation": str(facet.activation), "examples": shown, "copies": copies}
                for facet, shown, copies in zip(its.found.facets, map(passages, its.examples), its.copies, strict=True)
            ],
        }

    def entry_of(book: FeatureBook, i: int) -> dict[str, Any]:
        latent = book.latents[i]
        entry: dict[str, Any] = {
            "id": _name(book, latent),
            "part": book.part or 0,
            "number": latent,
            "active": int(book.counts.active[latent]),
            "max": _rounded(float(book.counts.maximum[latent])),
            "examples": passages(book.examples[i]),
            "copies": book.copies[i],
            "attention": book.attention and [[round(100 * share) for share in paid] for paid in book.attention[i]],
            "middle": passages(book.levels.middle[i]),
            "weak": passages(book.levels.weak[i]),
            "misses": None if book.levels.misses is None else missed(book.levels.misses[i]),
            "histogram": book.levels.histograms[i].tolist(),
            "nearest": [[_name(book, other), round(cosine, 3)] for other, cosine in book.nearest[i]],
        }
        if book.facets is not None:
            entry["facets"] = faceted(book.facets[i])
        if book.effects is not None:
            entry |= {"raised": effects(book.effects[i].raised), "lowered": effects(book.effects[i].lowered)}
        if book.part is not None:
            entry["read"] = book.site
            norms = zip(book.written, book.norms[i], strict=True)
            entry["written"] = [[place, _rounded(norm)] for place, norm in norms]
        return entry

    first = books[0]
    latents = [entry_of(book, i) for book in books for i in range(len(book.latents))]
    place = first.site if len(books) == 1 else f"{len(books)} parts"
    note = NOTE
    if first.effects is None:
        note = "This dictionary does not write to the residual stream."
    elif first.part is not None:
        note += " What a latent writes at several layers is added up."
    return {
        "title": title,
        "subtitle": f"{place} · {first.counts.tokens:,} tokens of {data}",
        "scope": _scope(books),
        "note": note,
        "attends": _attends(books),
        "measured": first.counts.tokens,
        "latents": latents,
        "vocabulary": [text_of(token) for token in vocabulary],
    }


def _name(book: FeatureBook, latent: int) -> int | str:
    """Its number; of a dictionary over several places that of its part stands before it."""
    return latent if book.part is None else f"{book.part}/{latent}"


def _attends(books: Sequence[FeatureBook]) -> str:
    """What an underline means."""
    if not any(book.attention for book in books):
        return ""
    blocks = {last_attention_before([Site.parse(site) for site in book.site.split(", ")]) for book in books}
    (first, *others) = sorted(block for block in blocks if block is not None)
    named = f"block {first}" if not others else "the last block before"
    return (
        f"Underlined: what the marked token attends to in {named}, mean of the heads; the strongest line is the most in"
        " the passage besides the row's first token. Shares are shown on hover."
    )


def _scope(books: Sequence[FeatureBook]) -> str:
    active = sum(int((book.counts.active > 0).sum()) for book in books)
    count, total = sum(len(book.latents) for book in books), sum(book.d_sae for book in books)
    shown = f"{count:,} of {total:,} latents"
    if books[0].chosen_by_hand:
        return f"{shown}, as asked for; {active:,} are active on this text."
    if count == active:
        return f"{shown}: all that are active on this text."
    return f"{shown}, evenly spread from the densest to the rarest of the {active:,} that are active on this text."


def _rounded(value: float) -> float:
    """Three digits: more would only make the file larger."""
    return float(f"{value:.3g}")


def _finite(value: float) -> float | None:
    """JSON has no infinity, which is the silhouette where all contexts are equal."""
    return round(value, 3) if math.isfinite(value) else None
