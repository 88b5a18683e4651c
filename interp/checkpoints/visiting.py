"""Checkpoints one after the other, each fetched while the one before is measured, within a budget of disk."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

from interp.checkpoints.sources import Checkpoint, MissingCheckpoint, Source, discard


def in_turn(
    source: Source,
    checkpoints: list[Checkpoint],
    folder: Path,
    budget: int | None,
    missing: Callable[[int, str], None],
) -> Iterator[tuple[Checkpoint, Path]]:
    """Each checkpoint's files; while one is in use the next is fetched, so that two are on the disk and never three."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[Path] | None = None
        for checkpoint, following in zip_longest(checkpoints, checkpoints[1:]):
            place = folder / checkpoint.revision
            try:
                needed = _checked_size(source, checkpoint, budget)
                path = ahead.result() if ahead else source.fetch(checkpoint, place)
            except MissingCheckpoint as error:
                ahead = None
                discard(place)
                missing(checkpoint.step, str(error))
                continue
            ahead = None
            if following and _fits_beside(source, following, needed, budget):
                ahead = pool.submit(source.fetch, following, folder / following.revision)
            try:
                yield checkpoint, path
            finally:
                discard(place)
    discard(folder)


def _checked_size(source: Source, checkpoint: Checkpoint, budget: int | None) -> int:
    size = source.bytes_of(checkpoint)
    if budget is not None and size > budget:
        raise ValueError(
            f"{checkpoint.revision} of {source.name} takes {size / 1e9:.2f} GB, more than the budget of"
            f" {budget / 1e9:.2f} GB; give at least twice its size to fetch one ahead"
        )
    return size


def _fits_beside(source: Source, following: Checkpoint, taken: int, budget: int | None) -> bool:
    if budget is None:
        return True
    try:
        return taken + source.bytes_of(following) <= budget
    except MissingCheckpoint:
        return True  # fetching it will say so
