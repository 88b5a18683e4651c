"""Documents to token ids at bounded memory: long text is tokenised in overlapping windows, with the ids of the whole.

Two windows that overlap disagree only near their ends, since a tokenizer's choices depend on little text around them. A
window is joined to the next at a place in the overlap around which both have the same tokens; where there is none (one
endless word), the two are tokenised as one.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.tokens.documents import Document, Source

Piece = tuple[bool, np.ndarray]
"""Whether it begins a document, and ids [tokens] int64."""

_WINDOW = 1 << 16
"""Characters; longer text is cut."""
_OVERLAP = 1 << 11
_AGREEMENT = 8
"""Tokens on either side of a joint that must be the same in both windows."""
_BATCH = 1 << 19
"""Characters tokenised in one call, so that the tokenizer can use all cores."""


@dataclass(frozen=True)
class _Window:
    text: str
    overlap: int
    """Characters that repeat the end of the window before; 0 begins a document."""


@dataclass
class _Encoded:
    text: str
    ids: np.ndarray
    starts: np.ndarray
    """Characters before each token, where they were asked for."""
    done: int = 0
    """Tokens that are already given out, or belong to the window before."""


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """``sha256:…`` of all that decides the ids of a text."""
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.pop("truncation"), state.pop("padding")
    else:
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return f"sha256:{hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}"


def peek(source: Source) -> tuple[Iterator[Document], bool]:
    """The documents, and whether they are text."""
    documents = source.read()
    begun: list[Document] = []
    for document in documents:
        begun.append(document)
        if not isinstance(document, str | np.ndarray) or len(document):
            text = not isinstance(document, np.ndarray)
            return _of_one_kind(itertools.chain(begun, documents), source.name, text=text), text
    raise ValueError(f"{source.name} holds no text: {len(begun)} documents, all of them empty")


def encode(documents: Iterable[Document], tokenizer: Any) -> Iterator[Piece]:
    """Ids of text documents, without special tokens of the tokenizer's own; long documents come in several pieces.

    A special token that is spelled out in the text becomes that token, as it does in ``tokenizer(text)``.
    A tokenizer without offsets (a slow one) gets each document whole.
    """
    waiting: _Encoded | None = None
    for batch in _batches(_windows(documents, cut=bool(getattr(tokenizer, "is_fast", False)))):
        for window, encoded in zip(batch, _call(tokenizer, batch), strict=True):
            if window.overlap == 0:
                if waiting is not None:
                    yield waiting.done == 0, waiting.ids[waiting.done :]
                waiting = encoded
                continue
            assert waiting is not None
            joint = _joint(waiting, encoded, window.overlap)
            if joint is None:
                text = waiting.text + window.text[window.overlap :]
                (merged,) = _call(tokenizer, [_Window(text, overlap=1)])
                merged.done = waiting.done
                waiting = merged
            else:
                end, encoded.done = joint
                yield waiting.done == 0, waiting.ids[waiting.done : end]
                waiting = encoded
    if waiting is not None:
        yield waiting.done == 0, waiting.ids[waiting.done :]


def _windows(documents: Iterable[Document], *, cut: bool) -> Iterator[_Window]:
    for document in documents:
        pieces = [document] if isinstance(document, str) else document
        if not cut:
            yield _Window("".join(pieces), overlap=0)
            continue
        text, overlap = "", 0
        for piece in pieces:
            text += piece
            begin = 0
            # The last window is at least twice the overlap, so that a joint can lie well inside both.
            while len(text) - begin > _WINDOW + _OVERLAP:
                yield _Window(text[begin : begin + _WINDOW], overlap)
                begin, overlap = begin + _WINDOW - _OVERLAP, _OVERLAP
            text = text[begin:]
        yield _Window(text, overlap)


def _batches(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    batch, size = [], 0
    for window in windows:
        batch.append(window)
        size += len(window.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _call(tokenizer: Any, batch: list[_Window]) -> list[_Encoded]:
    offsets = any(window.overlap or len(window.text) >= _WINDOW for window in batch)
    offsets = offsets and tokenizer.is_fast
    out = tokenizer(
        [window.text for window in batch],
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets,
        verbose=False,  # no warning about model_max_length: rows are cut later
    )
    spans = out["offset_mapping"] if offsets else [()] * len(batch)
    return [
        _Encoded(
            window.text,
            np.asarray(ids, dtype=np.int64),
            np.fromiter((start for start, _ in span), dtype=np.int64, count=len(span)),
        )
        for window, ids, span in zip(batch, out["input_ids"], spans, strict=True)
    ]


def _joint(before: _Encoded, after: _Encoded, overlap: int) -> tuple[int, int] | None:
    """Numbers of tokens of ``before`` up to the joint and of ``after`` before it; None where they never agree."""
    shift = len(before.text) - overlap
    places = before.starts[before.starts > shift] - shift
    for place in places[np.argsort(np.abs(places - overlap // 2), kind="stable")]:
        i, j = np.searchsorted(before.starts, place + shift), np.searchsorted(after.starts, place)
        if i < before.done + _AGREEMENT or j < _AGREEMENT:
            continue
        left, right = slice(i - _AGREEMENT, i + _AGREEMENT), slice(j - _AGREEMENT, j + _AGREEMENT)
        same_ids = np.array_equal(before.ids[left], after.ids[right])
        if same_ids and np.array_equal(before.starts[left] - shift, after.starts[right]):
            return int(i), int(j)
    return None


def id_pieces(documents: Iterable[Document], *, flat: bool, separator: int | None) -> Iterator[Piece]:
    """Documents of token ids as they are; a flat stream is split into documents at its separators."""
    pieces = ((True, np.asarray(ids).astype(np.int64)) for ids in documents)
    if not flat:
        return pieces
    return _split_at_separators(pieces, -1 if separator is None else separator)


def within_vocabulary(pieces: Iterable[Piece], vocab_size: int | None, *, name: str) -> Iterator[Piece]:
    """Pass on; ValueError at an id that the vocabulary lacks."""
    limit = vocab_size or 1 << 31
    for begins, ids in pieces:
        if len(ids) and not 0 <= (worst := int(ids.min() if ids.min() < 0 else ids.max())) < limit:
            raise ValueError(
                f"{name} has token id {worst}, outside the vocabulary 0 to {limit - 1}: it was tokenised for another"
                " model, or (.bin) id_dtype is not the one it was written with"
            )
        yield begins, ids


def _of_one_kind(documents: Iterable[Document], name: str, *, text: bool) -> Iterator[Document]:
    for document in documents:
        if isinstance(document, str | np.ndarray) and not len(document):
            yield "" if text else np.empty(0, np.int64)
        elif isinstance(document, np.ndarray) == text:
            raise ValueError(f"{name} mixes text and token ids in one column; give one of them")
        else:
            yield document


def _split_at_separators(pieces: Iterable[Piece], separator: int) -> Iterator[Piece]:
    """A flat stream of ids as documents: a separator opens one, but one at the very end closes the last."""
    started, waiting = False, np.empty(0, np.int64)
    for _, ids in pieces:
        # The last id waits until it is known whether anything follows it.
        ids, waiting = np.concatenate([waiting, ids[:-1]]), ids[-1:]
        borders = np.flatnonzero(ids == separator)
        for index, part in enumerate(np.split(ids, borders)):
            if len(part):
                yield index > 0 or not started, part
                started = True
    if len(waiting):
        yield not started, waiting
