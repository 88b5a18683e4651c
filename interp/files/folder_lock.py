"""One run at a time in a folder, and nothing left of runs that were killed in it."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from interp.files.writing import PARTIAL, make_folder

LOCK = ".lock"
# The first is ours (interp.files.writing), the second that of safetensors' own writer, which earlier versions used.
_LEFTOVERS = (f".*{PARTIAL}", ".tmp??????")


@contextmanager
def alone_in(folder: Path, *, below: Sequence[str] = (), wait: bool = False) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and remove what a killed run left of unfinished files.

    The lock is the operating system's, so it goes when its process does, however that ends.

    Args:
        folder: Of the run.
        below: Subfolders that the run writes into too, and in which no other run has a lock of its own.
        wait: For a run that is in it, instead of refusing.

    Whoever waits only fetches something; others are runs that continue, and an interruption is told so.

    Raises:
        ValueError: another run is in it, or it cannot be written.
    """
    try:
        make_folder(folder)
        lock = FileLock(folder / LOCK, timeout=-1 if wait else 0).acquire()
    except Timeout:
        raise ValueError(f"another run is writing {folder}; wait for it, or choose another folder") from None
    except OSError as error:
        raise ValueError(f"cannot write to {str(folder)!r}: {error.strerror}; choose another folder") from error
    with lock:
        for place in (folder, *(folder / name for name in below)):
            _clean(place)
        try:
            yield
        except KeyboardInterrupt as interruption:
            if not wait:
                interruption.add_note(f"the same command continues from what is in {folder}")
            raise


def _clean(folder: Path) -> None:
    for pattern in _LEFTOVERS:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
