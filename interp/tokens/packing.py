"""Pieces of documents to rows of one length: many documents end to end, or one document a row."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from interp.tokens.layout import Layout
from interp.tokens.tokenising import Piece

Rows = tuple[np.ndarray, np.ndarray]
"""Ids and document numbers, both [rows, context] int32; padding has document -1."""

_FLUSH = 1 << 18
"""Tokens gathered before rows are cut."""


@dataclass
class Losses:
    """What did not get into the rows, of the documents read."""

    empty_documents: int = 0
    """Documents without any token."""
    truncated_documents: int = 0
    """Documents of which a part was left out."""
    dropped_tokens: int = 0
    """Tokens that are in no row."""


def pack(pieces: Iterable[Piece], layout: Layout, losses: Losses, *, tokens: int) -> Iterator[Rows]:
    """Rows until they hold ``tokens`` tokens (padding is none) or the documents end; counts ``losses`` on the way."""
    pieces = _without_empty(pieces, losses)
    if layout.packing == "document":
        return _document_rows(pieces, layout, losses, tokens)
    return _packed_rows(_separated(pieces, layout), layout, -(-tokens // layout.context))


def _without_empty(pieces: Iterable[Piece], losses: Losses) -> Iterator[Piece]:
    for begins, ids in pieces:
        if len(ids):
            yield begins, ids
        else:
            losses.empty_documents += 1


def _separated(pieces: Iterable[Piece], layout: Layout) -> Iterator[tuple[np.ndarray, int]]:
    """Ids and the document they belong to; a separator or BOS that is already there is not put a second time."""
    number, last = -1, None
    for begins, ids in pieces:
        if begins:
            number += 1
            separator = layout.separator_id if number > 0 and last != layout.separator_id else None
            bos = layout.bos_id if layout.bos == "document" and layout.bos_id not in (last, separator) else None
            prefix = [token for token in (separator, bos) if token not in (None, ids[0])]
            ids = np.concatenate([np.asarray(prefix, dtype=np.int64), ids])
        last = int(ids[-1])
        yield ids, number


def _packed_rows(stream: Iterator[tuple[np.ndarray, int]], layout: Layout, wanted: int) -> Iterator[Rows]:
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for ids, number in stream:
        parts.append((ids, np.full(len(ids), number)))
        size += len(ids)
        if size >= min(_FLUSH, wanted * layout.context):
            rows, rest = _cut(parts, layout, wanted, final=False)
            parts, size = [rest], len(rest[0])
            wanted -= len(rows[0])
            yield rows
            if wanted == 0:
                return
    if size:
        yield _cut(parts, layout, wanted, final=True)[0]


def _cut(
    parts: list[tuple[np.ndarray, np.ndarray]], layout: Layout, limit: int, *, final: bool
) -> tuple[Rows, tuple[np.ndarray, np.ndarray]]:
    """Whole rows (with ``final`` a padded one too), at most ``limit``, and what is left over."""
    ids, documents = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    spans: list[tuple[int, int, int]] = []
    begin = 0
    while begin < len(ids) and len(spans) < limit:
        inserted = int(layout.bos == "row" and ids[begin] != layout.bos_id)
        end = begin + layout.context - inserted
        if end > len(ids) and not final:
            break
        spans.append((begin, min(end, len(ids)), inserted))
        begin = end
    rows = _blank(len(spans), layout)
    for row, (start, stop, inserted) in enumerate(spans):
        if inserted:
            rows[0][row, 0], rows[1][row, 0] = layout.bos_id, documents[start]
        filled = slice(inserted, inserted + stop - start)
        rows[0][row, filled], rows[1][row, filled] = ids[start:stop], documents[start:stop]
    return rows, (ids[begin:], documents[begin:])


def _document_rows(pieces: Iterable[Piece], layout: Layout, losses: Losses, tokens: int) -> Iterator[Rows]:
    flush = max(1, _FLUSH // layout.context)
    heads: list[np.ndarray] = []
    made = 0
    for head, length in _heads(pieces, layout):
        losses.truncated_documents += length > layout.context
        losses.dropped_tokens += max(0, length - layout.context)
        tokens -= len(head)
        heads.append(head)
        if len(heads) == flush or tokens <= 0:
            yield _padded(heads, layout, first=made)
            made += len(heads)
            heads = []
        if tokens <= 0:
            return
    if heads:
        yield _padded(heads, layout, first=made)


def _heads(pieces: Iterable[Piece], layout: Layout) -> Iterator[tuple[np.ndarray, int]]:
    """Each document's first ``context`` ids, and how many it has."""
    head, length = np.empty(0, np.int64), 0
    for begins, ids in pieces:
        if begins:
            if length:
                yield head, length
            bos = layout.bos != "never" and ids[0] != layout.bos_id
            head, length = np.asarray([layout.bos_id] if bos else [], dtype=np.int64), int(bos)
        length += len(ids)
        head = np.concatenate([head, ids[: layout.context - len(head)]])
    if length:
        yield head, length


def _padded(heads: list[np.ndarray], layout: Layout, *, first: int) -> Rows:
    rows = _blank(len(heads), layout)
    for row, head in enumerate(heads):
        rows[0][row, : len(head)] = head
        rows[1][row, : len(head)] = first + row
    return rows


def _blank(rows: int, layout: Layout) -> Rows:
    shape = (rows, layout.context)
    return np.full(shape, layout.padding_id, np.int32), np.full(shape, -1, np.int32)
