"""Documents out of one file: text, JSON lines, parquet, arrays of token ids; read as they are asked for."""

import codecs
import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.files.outside import parse_json_text, reading
from interp.files.zstd_frames import check_zstd_frames

Document = str | Iterator[str] | np.ndarray
"""Text, long text in pieces, or token ids [tokens]."""
Read = Callable[[], Iterator[Document]]

_BLOCK = 1 << 20
_NOT_WHOLE = "is damaged or not whole"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents that can be read once or many times."""

    name: str
    """Of the file, folder or data set; no machine's path."""
    identity: str
    """``sha256:…`` of the content, sampled where it is large."""
    read: Read
    """Called for each reading; gives the documents one by one."""
    flat: bool = False
    """A stream of ids without borders between documents: the separator in it is the border."""


def text_file(path: Path) -> Iterator[Document]:
    """One document: the whole file."""
    small = path.stat().st_size <= _BLOCK
    pieces = _decoded(path)
    yield "".join(pieces) if small else pieces


def _decoded(path: Path) -> Iterator[str]:
    """Pieces of a UTF-8 file, any line end as a newline (as ``Path.read_text`` does), without a byte order mark."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    begin = 0
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            pending = len(utf8.getstate()[0])
            try:
                text = utf8.decode(block, final=not block)
            except UnicodeDecodeError as error:
                byte = begin - pending + error.start
                raise ValueError(
                    f"{str(path)!r} is not UTF-8: byte {byte} is 0x{error.object[error.start]:02x}; convert it, as with"
                    " `iconv -f LATIN1 -t UTF-8`"
                ) from None
            text = newlines.decode(text, final=not block)
            if text:
                yield text.removeprefix("\ufeff") if begin == 0 else text
            if not block:
                return
            begin += len(block)


@contextmanager
def _unpacked(path: Path) -> Iterator[io.BufferedIOBase]:
    with path.open("rb") as packed:
        if path.suffix.lower() == ".gz":
            with reading(path.name, _NOT_WHOLE):
                if not path.stat().st_size:
                    raise ValueError("it is empty, and even no data packed has a header")
            yield gzip.GzipFile(fileobj=packed)
        elif path.suffix.lower() == ".zst":
            try:
                import zstandard
            except ImportError:
                raise ValueError(f"{path.name} needs `pip install zstandard`; or unpack it first") from None
            with reading(path.name, _NOT_WHOLE):
                check_zstd_frames(path)
            unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            yield io.BufferedReader(unpacker.stream_reader(packed, read_across_frames=True))
        else:
            yield packed


def json_lines(path: Path, column: str) -> Iterator[Document]:
    """A document a line, which is a JSON object; ``null`` is an empty one. Unpacks .gz and .zst."""
    with _unpacked(path) as file:
        for number, line in enumerate(_whole_lines(file, path.name), start=1):
            if not line.strip():
                continue
            where = f"line {number} of {path.name}"
            row = parse_json_text(line, where, "is not JSON", fix="One object a line is wanted")
            if not isinstance(row, dict):
                raise ValueError(f"{where} holds a {type(row).__name__}; one JSON object a line is wanted")
            if column not in row:
                raise ValueError(missing_column(column, where, row))
            yield _checked(row[column], column, where)


def _whole_lines(file: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    while True:
        with reading(name, _NOT_WHOLE):
            line = file.readline()
        if not line:
            return
        yield line


def _checked(value: Any, column: str, where: str) -> Document:
    if isinstance(value, str | None):
        return value or ""
    if isinstance(value, list):
        if not value:
            return np.empty(0, np.int64)
        if all(type(entry) is int and abs(entry) < 1 << 63 for entry in value):
            return np.asarray(value, dtype=np.int64)
        raise ValueError(_wrong_type(column, where, "a list with other entries than token ids"))
    raise ValueError(_wrong_type(column, where, type(value).__name__))


def missing_column(column: str, where: str, columns: Iterable[str]) -> str:
    """The message."""
    there = ", ".join(map(str, columns)) or "none"
    return (
        f"{where} has no column {column!r}; it has {there}: call the text's {column}, or say which it is with column="
        " in Python and --column of interp cache"
    )


def _wrong_type(column: str, where: str, found: str) -> str:
    return f"column {column!r} in {where} holds {found}; text or lists of integer token ids are wanted"


def parquet(path: Path, column: str) -> Iterator[Document]:
    """A document an entry of ``column``; null is an empty one."""
    import pyarrow
    import pyarrow.parquet

    with reading(path.name, "is not a parquet file that can be read"):
        file = pyarrow.parquet.ParquetFile(path)
    with file:
        if column not in file.schema_arrow.names:
            raise ValueError(missing_column(column, path.name, file.schema_arrow.names))
        batches = file.iter_batches(batch_size=256, columns=[column])
        while True:
            with reading(path.name, "is damaged"):
                batch = next(batches, None)
            if batch is None:
                return
            yield from arrow_documents(batch.column(0), column, path.name)


def arrow_documents(array: Any, column: str, where: str) -> Iterator[Document]:
    """The entries of an Arrow array of strings or of lists of integers."""
    import pyarrow
    from pyarrow import types

    with reading(where, "is damaged"):
        array.validate(full=True)  # Arrow trusts offsets, and reads outside its memory where a file's are wrong
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
    kind = array.type
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind):
        with reading(where, "is damaged"):
            texts = array.to_pylist()
        yield from (text or "" for text in texts)
    elif isinstance(kind, pyarrow.ListType | pyarrow.LargeListType | pyarrow.FixedSizeListType) and (
        types.is_integer(kind.value_type) or types.is_null(kind.value_type)
    ):
        for index in range(len(array)):
            with reading(where, "is damaged"):
                values = array[index].values
            if values is None:
                yield np.empty(0, np.int64)
            elif values.null_count and not types.is_null(kind.value_type):
                raise ValueError(_wrong_type(column, where, "a list with empty entries"))
            else:
                yield values.cast("int64").to_numpy(zero_copy_only=False)
    else:
        raise ValueError(_wrong_type(column, where, str(kind)))


def npy_file(path: Path) -> Iterator[Document]:
    """Parts of a flat stream of ids."""
    with reading(path.name, "is not an array of token ids in NumPy's .npy format"):
        array = np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
        if (found := path.stat().st_size) != (said := array.offset + array.nbytes):
            raise ValueError(f"its header says {said:,} bytes, the file has {found:,}")
    return flat_ids(array, path.name)


def bin_file(path: Path, id_dtype: str) -> Iterator[Document]:
    """Parts of a flat stream of ids without a header, little-endian, as nanoGPT's prepare.py writes them."""
    if id_dtype not in ("uint16", "uint32"):
        raise ValueError(f"id_dtype {id_dtype!r} is not one of a .bin file: uint16 (as nanoGPT writes) or uint32")
    size, width = path.stat().st_size, np.dtype(id_dtype).itemsize
    if size % width:
        raise ValueError(f"{path.name} has {size} bytes, no whole number of {id_dtype} ids; pass another id_dtype")
    if size:
        yield from flat_ids(np.memmap(path, dtype=np.dtype(id_dtype).newbyteorder("<"), mode="r"), path.name)


def flat_ids(array: np.ndarray, name: str) -> Iterator[Document]:
    """Parts of an array of ids; rows follow one another."""
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {array.dtype}; token ids are integers")
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {array.shape}; ids are a stream [tokens] or rows [rows, tokens]")
    rows = max(1, _BLOCK // max(1, array.shape[-1])) if array.ndim == 2 else _BLOCK
    for begin in range(0, len(array), rows):
        yield np.asarray(array[begin : begin + rows]).reshape(-1)
