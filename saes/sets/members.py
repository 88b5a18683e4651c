"""The dictionaries in a folder: one in each of its folders, or one in each of its files."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from saes.hub import folders_of

_DEEP = ("*", "*/*", "*/*/*", "*/*/*/*")
_LOOKED_AT = 20_000
_FILES = ("*.pt", "*.pth", "layer_*.safetensors")
"""Files that are a dictionary each, where a folder has several of them."""
_ALONE = frozenset({"cfg.json", "hyperparams.json", "ae.pt", "sae.safetensors", "sae_weights.safetensors"})
"""Files that no folder has but a dictionary's: where others of it are missing, it is damaged."""


def members_in(folder: Path) -> list[Path]:
    """Folders, or else files, of the dictionaries below a folder, those that are incomplete among them.

    A folder that is a dictionary itself has none.
    """
    if not folder.is_dir():
        return []
    names = [path.relative_to(folder).as_posix() for path in islice(_below(folder), _LOOKED_AT)]
    if "" in folders_of(names):
        return []
    inside = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in _ALONE} - {""}
    if found := sorted({*folders_of(names), *inside}, key=_in_order):
        return [folder / name for name in found]
    files = [path for pattern in _FILES for path in folder.glob(pattern)]
    return sorted(files, key=lambda path: _in_order(path.name)) if len(files) > 1 else []


def _below(folder: Path) -> Iterable[Path]:
    return (path for pattern in _DEEP for path in folder.glob(pattern) if path.is_file())


def _in_order(name: str) -> tuple[object, ...]:
    """Numbers by their value: layer 2 comes before layer 10."""
    parts: list[str] = []
    for character in name:
        if parts and parts[-1][-1:].isdigit() == character.isdigit():
            parts[-1] += character
        else:
            parts.append(character)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
