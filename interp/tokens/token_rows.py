"""Text to rows of token ids on disk, each token with the number of its document.

``write_token_rows`` streams: 10 GB of text need no more memory than a few megabytes. A folder holds ``ids.npy``,
``documents.npy`` and, written last, ``tokens.json``. The same input gives the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from interp.arguments.kinds import require
from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import check_still_whole, read_json, reading
from interp.files.seals import is_broken, write_sealed_json
from interp.files.writing import atomic_path
from interp.terminal.short_repr import short_repr
from interp.tokens.growing_array import GrowingArray
from interp.tokens.layout import Layout, choose_layout
from interp.tokens.packing import Losses, pack
from interp.tokens.sources import open_source
from interp.tokens.tokenising import Piece, encode, id_pieces, peek, tokenizer_fingerprint, within_vocabulary

_FORMAT = 1
_MANIFEST = "tokens.json"
_ARRAYS = ("ids.npy", "documents.npy")
_DTYPE = np.dtype("<i4")


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Rows of token ids, memory-mapped. Padding is on the right, so that causal models need no attention mask.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> model.tokenizer.decode(rows.ids[0][:5])
        '<|endoftext|>EMMA'
    """

    folder: Path
    """Folder that holds them, and what they were made from."""
    ids: np.ndarray
    """[rows, context] int32: token ids, which are the model's input."""
    documents: np.ndarray
    """[rows, context] int32: running number of the token's document, -1 for padding. A separator and a BOS belong to
    the document that follows."""
    positions: np.ndarray
    """[rows, context] int32: position in the row, which is what the model sees."""
    fingerprint: str
    """``sha256:…`` of ids and documents."""
    info: dict[str, Any]
    """How they were made (``data``, ``column``, ``tokenizer``, ``packing``, ``bos``, ``separator_id`` …) and what they
    hold: ``tokens`` (without padding; fewer than ``tokens_asked`` where the data ended), ``documents``,
    ``empty_documents``, and of one document a row ``truncated_documents`` and the ``dropped_tokens`` of those."""

    __repr__ = short_repr

    def tensor_of(
        self, column: Literal["ids", "documents"], window: slice | np.ndarray = slice(None)
    ) -> Int64[Tensor, "rows context"]:
        """A copy of some rows, a slice or their numbers, as int64, which is what models take."""
        array = getattr(self, column)
        if isinstance(array, np.memmap):
            fix = f"Delete {self.folder} and write it again"
            check_still_whole(self.folder / f"{column}.npy", array.offset + array.nbytes, fix=fix)
        return torch.from_numpy(array[window].astype(np.int64))


def write_token_rows(
    source: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    tokens: int,
    context: int,
    column: str = "text",
    packing: str = "packed",
    bos: str = "model",
    separator: int | str | None = "model",
    split: str | None = None,
    config: str | None = None,
    id_dtype: str = "uint16",
    vocab_size: int | None = None,
    max_context: int | None = None,
) -> TokenRows:
    """Tokenise until ``tokens`` are reached (rounded up to a whole row) or the data ends.

    A folder that these arguments have filled before is opened again, and all its bytes are verified; a run that was
    killed starts over.

    Args:
        source: text or token ids, see :mod:`interp.tokens.sources`.
        tokenizer: of transformers; None where the data are token ids.
        tokens: how many to write; padding does not count.
        context: tokens a row.
        column: of JSONL, parquet and data sets: text, or lists of token ids.
        packing: ``packed``, documents end to end with the separator between them, the last row padded; or ``document``,
            one a row, padded, and cut off at ``context`` tokens.
        bos: one of :data:`interp.tokens.layout.BOS`. Where a BOS or separator is already there, none is added.
        separator: its id; ``model``, the tokenizer's end of text; None, none. A flat stream of ids (``.npy``, ``.bin``,
            an array, whose rows are read end to end) is split into documents at it.
        split: of a data set; see :func:`interp.tokens.sources.open_source`, as for the next two.
        config: of a data set of the hub.
        id_dtype: of a ``.bin`` file.
        vocab_size: of the model; by default the tokenizer's.
        max_context: of the model.

    Raises:
        ValueError: an argument is out of range, the source cannot be read or holds no token, an id is outside the
            vocabulary, or the folder cannot be written or holds rows made in another way.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.write_token_rows(text, model.tokenizer, "rows", tokens=1_000, context=64)
        >>> rows.ids.shape
        (16, 64)
    """
    folder = Path(folder)
    if tokens <= 0:
        raise ValueError(f"tokens={tokens}: at least one is needed")
    opened = open_source(source, column=column, split=split, config=config, id_dtype=id_dtype)
    documents, text = peek(opened)
    if text and tokenizer is None:
        raise ValueError(
            f"{opened.name} is text, and there is no tokenizer (the model's files hold none): give token ids, such as a"
            " column of ids, .npy or .bin, or load the model with its tokenizer"
        )
    layout = choose_layout(
        tokenizer,
        context=context,
        max_context=max_context,
        packing=packing,
        bos=bos,
        separator=separator,
        text=text,
    )
    vocab_size = vocab_size or (len(tokenizer) if tokenizer else None)
    for name, token in (("separator", layout.separator_id), ("BOS", layout.bos_id if layout.bos != "never" else None)):
        if token is not None and vocab_size is not None and token >= vocab_size:
            raise ValueError(
                f"the {name} {token} is outside the vocabulary 0 to {vocab_size - 1}; give another or none"
            )
    specials = {layout.bos_id, layout.separator_id, *(tokenizer.all_special_ids if tokenizer else ())} - {None}
    request = {
        "data": opened.name,
        "data_identity": opened.identity,
        "column": column,
        "split": split,
        "config": config,
        "id_dtype": id_dtype,
        "tokenizer": tokenizer_fingerprint(tokenizer) if tokenizer else None,
        "vocab_size": vocab_size,
        "tokens_asked": tokens,
        "bos_asked": bos,
        **asdict(layout),
        "special_ids": sorted(specials),
    }
    if (folder / _MANIFEST).is_file():
        return _reopen(folder, request)
    with alone_in(folder, wait=True):
        if (folder / _MANIFEST).is_file():  # another process was faster
            return _reopen(folder, request)
        if text:
            pieces = encode(documents, tokenizer)
        else:
            pieces = id_pieces(documents, flat=opened.flat, separator=layout.separator_id)
        _write(folder, within_vocabulary(pieces, vocab_size, name=opened.name), layout, request)
    return open_token_rows(folder)


def require_rows(rows: Any) -> None:
    """Raises ValueError, with what makes them, for a path or text in the place of rows."""
    require(
        rows, TokenRows, what="rows of token ids", fix="what interp.rows_for(model, data, folder, tokens=...) makes"
    )


def open_token_rows(folder: str | Path) -> TokenRows:
    """Rows that ``write_token_rows`` finished, with sizes, shapes and dtypes checked; ``verify_token_rows`` reads all.

    Raises:
        ValueError: there are none, or the files do not fit each other.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> interp.open_token_rows("rows").ids.shape == rows.ids.shape
        True
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    shape = (manifest["rows"], manifest["context"])
    arrays = []
    for name in _ARRAYS:
        with reading(folder / name, fix=f"Delete {folder} and write it again"):
            array = np.lib.format.open_memmap(folder / name, mode="r")  # refuses pickled objects
        size = (folder / name).stat().st_size
        whole = array.flags.c_contiguous and size == array.offset + array.nbytes
        if array.dtype != _DTYPE or array.shape != shape or not whole:
            raise ValueError(
                f"{folder / name} has {size} bytes of {array.dtype} {array.shape}; {_MANIFEST} says {_DTYPE} {shape}."
                f" Delete {folder} and write it again"
            )
        arrays.append(array)
    return TokenRows(
        folder=folder,
        ids=arrays[0],
        documents=arrays[1],
        positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        fingerprint=manifest["fingerprint"],
        info=manifest["info"],
    )


def verify_token_rows(folder: str | Path) -> TokenRows:
    """Open, and read every byte.

    Raises:
        ValueError: as ``open_token_rows``, or a file whose checksum differs, by name.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=1_000)
        >>> interp.tokens.verify_token_rows("rows").ids.shape == rows.ids.shape
        True
    """
    rows, manifest = open_token_rows(folder), _manifest(Path(folder))
    digests = {}
    for name, array in zip(_ARRAYS, (rows.ids, rows.documents), strict=True):
        digest = hashlib.sha256()
        for begin in range(0, len(array), 4096):
            digest.update(array[begin : begin + 4096].data)
        digests[name] = digest.hexdigest()
        if digests[name] != manifest["sha256"].get(name):
            raise ValueError(
                f"{rows.folder / name} was altered: its checksum differs. Delete {folder} and write it again"
            )
    if _fingerprint(digests, len(rows.ids), rows.ids.shape[1]) != rows.fingerprint:
        raise ValueError(f"{rows.folder / _MANIFEST} was altered: its fingerprint is not that of the arrays")
    return rows


def token_mask(
    rows: TokenRows, window: slice | np.ndarray = slice(None), *, drop_special: bool = False, drop_first: int = 0
) -> np.ndarray:
    """Which tokens of ``rows[window]`` to use, boolean [rows, context]; padding never.

    Args:
        drop_special: leave out BOS, separators and the tokenizer's other special tokens.
        drop_first: leave out that many positions of every row.

    Raises:
        ValueError: no position would be left.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=1_000)
        >>> mask = interp.tokens.token_mask(rows, drop_first=1)
        >>> bool(mask[:, 0].any()), bool(mask[:, 1].all())
        (False, True)
    """
    if not 0 <= drop_first < rows.ids.shape[1]:
        raise ValueError(f"drop_first {drop_first} is not from 0 to {rows.ids.shape[1] - 1}, the context less one")
    mask = rows.documents[window] >= 0
    mask[:, :drop_first] = False
    if drop_special:
        mask &= ~np.isin(rows.ids[window], rows.info["special_ids"])
    return mask


def _write(folder: Path, pieces: Iterable[Piece], layout: Layout, request: dict[str, Any]) -> None:
    losses = Losses()
    tokens, documents = 0, 0
    with (
        atomic_path(folder / _ARRAYS[0]) as ids_path,
        atomic_path(folder / _ARRAYS[1]) as documents_path,
        GrowingArray(ids_path, width=layout.context, dtype=_DTYPE) as ids_file,
        GrowingArray(documents_path, width=layout.context, dtype=_DTYPE) as documents_file,
    ):
        for ids, numbers in pack(pieces, layout, losses, tokens=request["tokens_asked"]):
            ids_file.append(ids)
            documents_file.append(numbers)
            tokens += int((numbers >= 0).sum())
            documents = int(numbers.max()) + 1
    digests = {_ARRAYS[0]: ids_file.sha256, _ARRAYS[1]: documents_file.sha256}
    manifest = {
        "format": _FORMAT,
        "rows": ids_file.rows,
        "context": layout.context,
        "sha256": digests,
        "fingerprint": _fingerprint(digests, ids_file.rows, layout.context),
        "info": request | {"tokens": tokens, "documents": documents} | asdict(losses),
    }
    write_sealed_json(folder / _MANIFEST, manifest)


def _fingerprint(digests: dict[str, str], rows: int, context: int) -> str:
    text = json.dumps([rows, context, *(digests[name] for name in _ARRAYS)])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _reopen(folder: Path, request: dict[str, Any]) -> TokenRows:
    rows = verify_token_rows(folder)  # what is made of them must not depend on a flipped bit
    check_same({name: rows.info.get(name) for name in request}, request, where=folder)
    return rows


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.exists():
        raise ValueError(f"no finished token rows in {str(folder)!r} (no {_MANIFEST}); run write_token_rows")
    manifest = read_json(path, fix=f"Delete {folder} and write it again")
    if manifest.get("format") != _FORMAT:
        raise ValueError(f"{path} is not of format {_FORMAT}, which this version reads; write the rows again")
    kinds = {"rows": int, "context": int, "sha256": dict, "fingerprint": str, "info": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)}. Delete {folder} and write it again")
    if is_broken(manifest):
        raise ValueError(f"{path} was altered: its checksum differs. Delete {folder} and write it again")
    return manifest
