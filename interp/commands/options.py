"""Options that several commands share."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def _check_place(path: Path) -> None:
    """That something can be made at ``path``, before minutes of work go into it."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if there != path.absolute() and not there.is_dir():
        raise ValueError(f"{there} is a file, so that nothing can be written below it; choose another path")
    refused = f"{there} may not be written; choose another path"
    if not os.access(there, os.W_OK):
        raise ValueError(refused)
    if there.is_dir():  # which may refuse what its mode allows, as /proc does
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError:
            raise ValueError(refused) from None


def _check_file(_type: object, path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    _check_place(path)


def _check_folder(_type: object, path: Path | None) -> None:
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder")
    _check_place(path)


OutFile = Annotated[Path, Parameter(validator=_check_file)]
"""A file to write, tried when the command line is read."""
OutFolder = Annotated[Path, Parameter(validator=_check_folder)]
"""A folder to write into, tried when the command line is read."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How the model is loaded; its fields are options of ``load_model``."""

    revision: str | None = None
    """Training checkpoint, such as step1000."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; published figures are of float32."""
    device: str | None = None
    """By default a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """How text is cut into the rows that are measured."""

    sequences: int = 10
    """Rows to measure; the papers take 10."""
    context: int | None = None
    """Tokens a row; by default the model's context, at most 2048."""
    bos: Literal["model", "row", "document", "never"] = "never"
    """Where a beginning-of-sequence token is put; the papers put none."""
