"""The dictionaries below a folder: one in each of its folders, or in each of its files."""

from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from saes.hub import folders_of

_LOOKED_AT = 20_000
_FILES = (".pt", ".pth")
_LAYER_FILE = "layer_*.safetensors"
_ALONE = frozenset({"cfg.json", "hyperparams.json", "ae.pt", "sae.safetensors", "sae_weights.safetensors"})
"""Files that no folder has but a dictionary's: where others of it are missing, it is damaged."""


def members_in(folder: Path) -> list[Path]:
    """Folders and files of the dictionaries below a folder, those that are incomplete among them.

    A file is one only where it lies beside no folders of dictionaries, as what a trainer leaves there does. A folder
    that is a dictionary itself has none.

    Example:
        >>> from pathlib import Path
        >>> from saes import SAE, TopK
        >>> from saes.sets import members_in
        >>> for layer in (10, 2):
        ...     SAE(8, 16, TopK(2)).save(f"set/layer_{layer}")
        >>> [folder.name for folder in members_in(Path("set"))]
        ['layer_2', 'layer_10']
    """
    if not folder.is_dir():
        return []
    paths = islice((path for path in folder.rglob("*") if path.is_file()), _LOOKED_AT)
    names = [path.relative_to(folder).as_posix() for path in paths]
    folders = set(folders_of(names))
    if "" in folders:
        return []
    folders |= {_parent(name) for name in names if name.rpartition("/")[2] in _ALONE} - {""}
    files = {name for name in names if _is_file_of_one(name) and not _beside(_parent(name), folders)}
    found = folders | (files if len(files) > 1 or folders else set())
    return [folder / name for name in sorted(found, key=_in_order)]


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _is_file_of_one(name: str) -> bool:
    return name.endswith(_FILES) or fnmatchcase(name.rpartition("/")[2], _LAYER_FILE)


def _beside(parent: str, folders: set[str]) -> bool:
    """Whether a folder holds, is or lies below one of the folders."""
    return any(
        f"{place}/".startswith(f"{parent}/" if parent else "") or f"{parent}/".startswith(f"{place}/")
        for place in folders
    )


def _in_order(name: str) -> tuple[object, ...]:
    """Numbers by their value: layer 2 comes before layer 10."""
    parts: list[str] = []
    for character in name:
        if parts and parts[-1][-1:].isdigit() == character.isdigit():
            parts[-1] += character
        else:
            parts.append(character)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
