"""The folder of an activation store: the names in it, and who may write there."""

import os
from pathlib import Path

FORMAT = 1
MANIFEST = "manifest.json"
"""Written last: what is there."""
CACHE = "cache.json"
"""Written first: what was asked."""
TOKENS = "tokens"
SHARDS = "shards"


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written or that belongs to something else; makes nothing.

    Raises:
        ValueError: with the reason.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "is read-only" if place.is_dir() else "is not a folder"
        raise ValueError(f"cannot write to {str(folder)!r}: {place} {why}; choose another folder")
    ours = {MANIFEST, CACHE, TOKENS, SHARDS}
    inside = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if foreign := sorted(name for name in inside if name not in ours and not name.startswith(".")):
        raise ValueError(
            f"{folder} holds files that are not of an activation store ({', '.join(foreign[:3])}); choose an empty or"
            " new folder"
        )
