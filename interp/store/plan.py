"""What a run will need, before it starts: disk, memory, time."""

import shutil
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

MIB = 1 << 20
_SPARE_BYTES = 16 * MIB
"""Left free on the disk: for notes, the manifest and whatever else writes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a run that caches activations."""

    out: Path
    """Folder that the store is written to."""
    tokens: int
    """At most: the norm mask drops some later."""
    sites: int
    """How many sites are stored."""
    dtype: str
    """Number format that activations are stored in."""
    shards: int
    """How many shards the store will have."""
    shards_done: int
    """How many of them are there already."""
    disk_bytes: int
    """Of the whole store, at most."""
    disk_missing: int
    """Of what is not there yet."""
    disk_free: int
    """Bytes left on the folder's disk for this user."""
    memory_bytes: int | None
    """Largest resident memory of each process; None if it was not tried."""
    seconds: float | None
    """That the model will need; None if it was not tried."""

    def check(self) -> None:
        """Refuse a run that would fill the disk.

        Raises:
            ValueError: with the numbers.
        """
        if self.disk_missing and self.disk_missing + _SPARE_BYTES > self.disk_free:
            raise ValueError(
                f"the disk of {self.out} has {size(self.disk_free)} free, and {size(self.disk_missing)} are still to be"
                f" written (keeping {size(_SPARE_BYTES)} spare): choose fewer tokens or sites, a smaller dtype"
                " (float16, int8) or another disk"
            )

    def __str__(self) -> str:
        done = f", {self.shards_done} of them already there" if self.shards_done else ""
        lines = [
            f"{self.tokens:,} tokens at {self.sites} site{'s' if self.sites > 1 else ''} as {self.dtype}, in"
            f" {self.shards} shard{'s' if self.shards > 1 else ''}{done}",
            f"disk    {size(self.disk_bytes)} at most, {size(self.disk_missing)} still to write;"
            f" {size(self.disk_free)} free at {self.out}",
        ]
        if self.memory_bytes is not None:
            lines.append(f"memory  {size(self.memory_bytes)} at its peak, model included (each process)")
        if self.seconds is not None:
            lines.append(f"time    about {timedelta(seconds=round(self.seconds))}")
        return "\n".join(lines)


def size(count: float | int) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def free_bytes(path: Path) -> int:
    """Free on the disk where ``path`` is or will be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def seconds_of(function: Any) -> float:
    """Wall time of a call, after one that warms up."""
    function()
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
