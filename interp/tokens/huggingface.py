"""A data set of the Hugging Face hub, streamed; a name that cannot be had fails in seconds, not after retries."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from interp.files.outside import reading
from interp.tokens.documents import Document, Source, arrow_documents, missing_column

_QUESTION_SECONDS = 5.0
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""Of a stream of Arrow record batches."""


def open_hub_dataset(name: str, *, config: str | None, split: str | None) -> tuple[Any, str]:
    """A streaming data set and its name with the revision it has now.

    Args:
        name: hub id, ``id@revision`` for one revision.
        config: where the data set has several.
        split: ``train`` where none is named.

    Raises:
        ValueError: no such data set, revision, configuration or split, or it can not be reached.
    """
    import datasets

    repo, _, revision = name.partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ValueError(f"{name!r} is neither a file, a folder nor the name of a data set on the hub") from None
    streaming = not (constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)
    if streaming:
        revision = _current_revision(repo, revision or None)
    options = {"revision": revision or None, "split": split or "train", "streaming": streaming}
    try:
        return datasets.load_dataset(repo, config, **options), f"{repo}@{revision}" if revision else repo
    except Exception as error:  # of many kinds: configurations, splits, formats, the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not streaming:
            raise ValueError(
                f"no file or folder {name!r}, and as a data set of the hub it is not in the cache of `datasets`, and"
                f" HF_HUB_OFFLINE forbids to ask the hub ({reason})"
            ) from error
        raise ValueError(f"data set {name!r} (config {config!r}, split {split or 'train'!r}): {reason}") from error


def _current_revision(repo: str, revision: str | None) -> str:
    try:
        return str(HfApi().dataset_info(repo, revision=revision, timeout=_QUESTION_SECONDS).sha)
    except RevisionNotFoundError:
        raise ValueError(f"the hub has data set {repo!r}, but no revision {revision!r} of it") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"no file or folder {repo!r}, and the hub has no data set of that name (or it is private or gated: run"
            " `hf auth login`)"
        ) from None
    except Exception as error:  # of the client's own kinds and of whatever HTTP library it uses this year
        raise ValueError(
            f"no file or folder {repo!r}, and the hub cannot be reached to ask for a data set of that name ({error})"
        ) from error


def load_from_disk(path: Path, split: str | None) -> Any:
    """A data set that ``datasets`` saved in a folder, or one split of several."""
    import datasets

    with reading(path.name, "cannot be read as a data set that save_to_disk wrote"):
        for file in sorted(path.rglob("*.arrow")):
            _check_end(file)
        data = datasets.load_from_disk(str(path))
    if not isinstance(data, datasets.DatasetDict):
        if split is not None:
            raise ValueError(f"{path.name} holds one data set without splits; leave split={split!r} out")
        return data
    chosen = split or ("train" if "train" in data or len(data) != 1 else next(iter(data)))
    if chosen not in data:
        raise ValueError(f"{path.name} has no split {chosen!r}; it has {', '.join(data)}")
    return data[chosen]


def _check_end(file: Path) -> None:
    """A stream cut between two record batches reads as a shorter one: only its end marker tells."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - len(_END)))
        if stream.read() != _END:
            raise ValueError(f"{file.name} has no end marker, so it was cut off")


def of_dataset(data: Any, column: str, *, name: str, identity: str | None = None) -> Source:
    """The documents in one column of a data set."""
    # A stream may not know its columns before its first row.
    columns = data.column_names or list(next(iter(data.with_format(None)), {}))
    if column not in columns:
        raise ValueError(missing_column(column, name, columns))

    def read() -> Iterator[Document]:
        for table in data.select_columns([column]).with_format("arrow").iter(batch_size=256):
            for chunk in table.column(column).chunks:
                yield from arrow_documents(chunk, column, name)

    return Source(name=name, identity=identity or _dataset_identity(data.select_columns([column])), read=read)


def _dataset_identity(data: Any) -> str:
    """Digest of the number of rows and both ends; of a stream, which has no known end, of its first row."""
    plain = data.with_format(None)
    rows = getattr(data, "num_rows", None)
    ends = next(iter(plain), None) if rows is None else [plain[index] for index in sorted({0, rows - 1}) if rows]
    return f"sha256:{hashlib.sha256(json.dumps([rows, ends], default=str).encode()).hexdigest()}"
