"""Files that are either whole or absent: temporary name, fsync, rename. A full disk is told in words."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""Ends the hidden name of a file that is being written."""
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DiskFull(OSError):
    """No room on the disk, or in the quota; the message says where."""


@contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Inside, what fails because the disk of ``path`` is full raises ``DiskFull``, which names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, DiskFull):
            raise
        raise DiskFull(
            error.errno,
            f"no room on the disk for {path} ({os.strerror(error.errno or 0)}): what was complete before stays; make"
            " room, and the same command continues",
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends without an error it becomes ``path``.

    The bytes reach the disk before the name does, so a killed process leaves the old file or the new one.

    Raises:
        DiskFull: there is no room; the old file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with told_if_full(path):
        make_folder(path.parent)
        try:
            yield partial
            sync_file(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that their names survive a power cut; nothing where it is there."""
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync_folder(place.parent)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file, whoever wrote them, are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused (they are not JSON)."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
