"""Documents, one after the other, from wherever text or token ids are kept; nothing is read before it is asked for.

Text: a ``.txt`` file or a folder of them (a document a file), ``.md`` or ``.rst`` where there is nothing else to read,
JSONL, parquet, a Hugging Face dataset. Token ids: a
column of any of these that holds lists of ids (a document an entry), or a flat stream in ``.npy``, ``.bin`` (nanoGPT's
format) or an array.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from interp.tokens.documents import (
    Document,
    Source,
    bin_file,
    flat_ids,
    json_lines,
    npy_file,
    parquet,
    text_file,
)
from interp.tokens.huggingface import load_from_disk, of_dataset, open_hub_dataset

_BLOCK = 1 << 20
_TEXT = (".txt",)
_MARKED_TEXT = (".md", ".rst")
"""Read where a folder holds nothing else: beside data they are about it."""
_LINES = tuple(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst"))
_KINDS = (_TEXT, _MARKED_TEXT, _LINES, (".parquet",), (".npy",), (".bin",))
ACCEPTED = (
    "a .txt, .md, .rst, .jsonl, .json (an object a line), .jsonl.gz, .jsonl.zst or .parquet file, a folder of them,"
    " token ids as .npy or .bin, a folder written by datasets' save_to_disk, a data set of the Hugging Face hub, or"
    " from Python a datasets.Dataset or an integer array"
)


def open_source(
    source: Any, *, column: str = "text", split: str | None = None, config: str | None = None, id_dtype: str = "uint16"
) -> Source:
    """Recognise ``source``; of a file only its size and a sample are read.

    Args:
        source: see the module's docstring. A data set of the hub is its name, with ``@revision`` where wanted.
        column: of JSONL, parquet and data sets: text, or lists of token ids.
        split: of a data set, ``"train"`` where it has several and none is named.
        config: of a data set of the hub.
        id_dtype: of a ``.bin`` file: ``uint16`` or ``uint32``.

    Raises:
        ValueError: nothing is there, it is of no kind that can be read, or an option does not apply to it.
    """
    if isinstance(source, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()
        found = Source(name="array", identity=f"sha256:{digest}", read=lambda: flat_ids(source, "the array"), flat=True)
    elif isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return of_dataset(
                load_from_disk(path, split), column, name=path.name, identity=_identity(path, _files(path))
            )
        if not path.exists():
            _refuse_missing_path(source, path)
            data, name = open_hub_dataset(str(source), config=config, split=split)
            return of_dataset(data, column, name=name)
        found = _of_path(path, column, id_dtype)
    elif hasattr(source, "with_format") and hasattr(source, "features"):
        found = of_dataset(source, column, name="dataset")
    else:
        raise ValueError(f"cannot read documents from a {type(source).__name__}; data is {ACCEPTED}")
    given = {name: value for name, value in (("split", split), ("config", config)) if value is not None}
    if given:
        options = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"{options} applies to named Hugging Face datasets only, and {found.name} is none; leave it out"
        )
    return found


def _refuse_missing_path(source: str | Path, path: Path) -> None:
    """A name with at most one slash and without a known ending may still be a data set of the hub."""
    looks_like_path = str(source).startswith((".", "/", "~")) or str(source).count("/") > 1
    if isinstance(source, Path) or looks_like_path or path.name.endswith(tuple(sum(_KINDS, ()))):
        raise ValueError(f"no file or folder at {str(path)!r} (looked from {Path.cwd()}); data is {ACCEPTED}")


def _of_path(path: Path, column: str, id_dtype: str) -> Source:
    files = _files(path)
    kinds = {kind for kind in _KINDS for file in files if file.name.lower().endswith(kind)}
    if len(kinds) > 1:
        kinds -= {_MARKED_TEXT}
    if not kinds:
        raise ValueError(f"nothing to read in {str(path)!r}: {_not_read(path, files)}; data is {ACCEPTED}")
    if len(kinds) > 1:
        found = " and ".join(sorted(kind[0] for kind in kinds))
        raise ValueError(f"a mixture of {found} to read in {str(path)!r}; data is {ACCEPTED}")
    kind = kinds.pop()
    files = [file for file in files if file.name.lower().endswith(kind)]
    readers: dict[tuple[str, ...], Callable[[Path], Iterator[Document]]] = {
        _TEXT: text_file,
        _MARKED_TEXT: text_file,
        _LINES: lambda file: json_lines(file, column),
        (".parquet",): lambda file: parquet(file, column),
        (".npy",): npy_file,
        (".bin",): lambda file: bin_file(file, id_dtype),
    }
    reader = readers[kind]
    return Source(
        name=path.name or path.resolve().name,
        identity=_identity(path, files),
        read=lambda: (document for file in files for document in reader(file)),
        flat=kind in ((".npy",), (".bin",)),
    )


def _not_read(path: Path, files: list[Path]) -> str:
    """What is there, and what to do about it."""
    if path.is_file():
        return (
            f"no kind is known by {path.suffix or 'a name without ending'}; call it {path.stem}.txt if it is plain text"
        )
    if not files:
        return "the folder holds no files"
    names = ", ".join(file.name for file in files[:3]) + (", …" if len(files) > 3 else "")
    return f"of its {len(files)} files ({names}) none is of a known kind; end plain text in .txt"


def _files(path: Path) -> list[Path]:
    """The file, or all files of a folder and below it, by name; hidden ones are left out."""
    if path.is_file():
        return [path]
    names = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return [path / name for name in sorted(names) if not any(part.startswith(".") for part in name.parts)]


def _identity(path: Path, files: list[Path]) -> str:
    """Digest of the names, sizes and both ends of files: changes with the data, and 10 GB are not read for it."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_BLOCK))
            stream.seek(max(0, size - _BLOCK))
            digest.update(stream.read(_BLOCK))
    return f"sha256:{digest.hexdigest()}"
