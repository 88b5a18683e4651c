"""A temporary folder that does not outlive its process for long, however that ends.

A ``with`` block cannot clean up after SIGKILL. So each folder holds a lock while it is in use, and whoever makes one
removes those that nobody holds.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from interp.files.folder_lock import LOCK

_PREFIX = "deepfield-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new, empty folder below the system's temporary one; it is removed at the end, with all that is in it."""
    place = Path(tempfile.gettempdir())
    _remove_abandoned(place)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True) as made,
        FileLock(Path(made) / LOCK),
    ):
        inner = Path(made) / "files"
        inner.mkdir()
        yield inner


def _remove_abandoned(place: Path) -> None:
    """Those of this user that have a lock, which no process holds."""
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):  # another's, or removed by another process meanwhile
            mine = os.name == "nt" or folder.lstat().st_uid == os.getuid()
            if mine and not folder.is_symlink() and (folder / LOCK).is_file():
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder)
