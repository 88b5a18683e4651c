"""A dated table of published dictionaries: release and id -> repository, folder or file, model, what its files lack.

``benchmarks/releases.py`` writes ``releases.json.gz`` from the directory in sae-lens; it holds names and numbers alone.
"""

import difflib
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("releases.json.gz")
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Published:
    """One dictionary of the directory."""

    release: str
    """Name of its release in the directory."""
    sae_id: str
    """Name of the dictionary in its release."""
    repo: str
    """Repository on the hub that holds it."""
    path: str
    """Folder or file in the repository."""
    model: str
    """Name of the model that it was trained on."""
    loader: str
    """SAELens's name of the layout."""
    factor: float | None
    """What inputs were multiplied by in training, where the files do not say it."""
    normalise: str | None
    """What is done to inputs, where the files say something else."""
    l0: float | None
    """As the directory has it."""
    variance_explained: float | None
    """As the directory has it, on a text that it does not name."""


@cache
def table() -> dict[str, Any]:
    """The table as it stands: ``source``, ``date``, and ``releases`` by name."""
    with gzip.open(_TABLE, "rt", encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def of_name(name: str) -> Published | None:
    """The dictionary of a name ``release/sae_id``; None where it begins with no release.

    Raises:
        ValueError: a release without an id, or with an id that it has not; ids are listed.
    """
    release, _, sae_id = name.partition("/")
    content = table()["releases"].get(release)
    if content is None:
        return None
    ids = list(content["saes"])
    if sae_id in content["saes"]:
        return _entry(release, sae_id)
    near = difflib.get_close_matches(sae_id, ids, n=_LISTED, cutoff=0.5) if sae_id else []
    shown = near or ids[:_LISTED]
    more = f" and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
    what = (
        f"the release {release} has no {sae_id!r}" if sae_id else f"{release} is a release of {len(ids)} dictionaries"
    )
    raise ValueError(f"{what}; name one of them as {release}/ID: {', '.join(shown)}{more} ({table()['source']})")


def of_files(place: Path) -> Published | None:
    """The dictionary whose files are at a place in the hub's cache; None where the table has none."""
    parts = place.absolute().parts
    if "snapshots" not in parts:
        return None
    at = parts.index("snapshots")
    repo = parts[at - 1].removeprefix("models--").replace("--", "/", 1)
    return _by_files().get((repo, "/".join(parts[at + 2 :])))


@cache
def _by_files() -> dict[tuple[str, str], Published]:
    entries = (_entry(release, sae_id) for release, it in table()["releases"].items() for sae_id in it["saes"])
    return {(entry.repo, entry.path.strip("/")): entry for entry in entries}


def _entry(release: str, sae_id: str) -> Published:
    content = table()["releases"][release]
    return Published(
        release=release,
        sae_id=sae_id,
        repo=content["repo"],
        path=content["saes"][sae_id],
        model=content["model"],
        loader=content["loader"],
        factor=content.get("factors", {}).get(sae_id),
        normalise=content.get("normalise"),
        l0=_figure(content, "l0", sae_id),
        variance_explained=_figure(content, "variance_explained", sae_id),
    )


def _figure(content: dict[str, Any], name: str, sae_id: str) -> float | None:
    value = content.get(name, {}).get(sae_id)
    return None if value is None else float(value)
