"""SAEs of the Hugging Face hub: ``owner/name``, or ``owner/name/folder`` for one of several in a repository.

The cache is asked first: an SAE that is in it needs no network. Then the hub is asked one short question, and of what
it holds only the few files of that one SAE are fetched.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, constants, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound
from huggingface_hub.utils import validate_repo_id

from interp.arguments.kinds import require
from saes.published.releases import of_name

LAYOUTS = (
    ("cfg.json", "sae_weights.safetensors"),
    ("cfg.json", "sae.safetensors"),
    ("config.json", "ae.pt"),
    ("params.safetensors",),
    ("params.npz",),
    ("config.json", "sae_weights.safetensors"),
    ("hyperparams.json", "checkpoints/final.safetensors"),
)
"""Files that together are an SAE, in one of the formats that ``saes.convert`` reads or in ours."""
FILES = (".pt", ".pth", ".safetensors", ".npz")
"""Endings of files that are an SAE alone."""
SEVERAL = (
    ("W_enc_*.safetensors", "W_dec_*.safetensors"),
    ("params_layer_*.safetensors",),
    ("layer_*.safetensors",),
    ("part_*.safetensors", "cfg.json"),
)
"""Files that together are a dictionary over several places, as ``saes.places.load_any`` takes it."""
_LIST = "config.yaml"
"""Where circuit-tracer names files, which may be in other repositories."""
_CONFIGS = (_LIST, "config.json", "cfg.json")
_BESIDE = ("activation_scaler.json", "activation_whitening.safetensors")
"""What some SAEs need, where it is there."""
_ABOVE = "config.json"
"""What sparsify says once for all SAEs of a run, one folder up."""
NO_SAE = {
    "temporal": "a temporal SAE, whose latents depend on the tokens before, not on one token: it has no counterpart",
    "mntss_clt_layer_transcoder": "one layer of a cross-layer transcoder, whose latents write at several layers: load"
    " all of it with saes.places.load_any('{repo}')",
}
"""SAELens's name of a layout -> what its dictionaries are that cannot be loaded by their names in the directory."""
_LOOKED_AT = 20_000
_QUESTION_SECONDS = 5.0
_LISTED = 20
# No part can be "..", a pattern or hidden. A revision may have slashes.
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*"
_INSIDE = r"[A-Za-z0-9_][A-Za-z0-9_.=+:-]*"  # some folders are called as wandb names what it keeps, with a colon
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(/(?P<folder>{_INSIDE}(/{_INSIDE})*))?")
_REVISION = re.compile(rf"{_PART}(/{_PART})*")


def located(path: str | Path, revision: str | None = None, *, several: bool = False) -> Path:
    """``path`` where it exists or cannot be a hub id; else the folder of the SAE of that id in the hub's cache.

    ``several``: a dictionary over several places too.

    Raises:
        ValueError: a hub id that neither the cache nor the hub has, the hub cannot be reached, or a revision of a path.
    """
    require(path, (str, Path), what="a dictionary's folder or hub id", fix="a folder, or owner/name/folder on the hub")
    name = str(path)
    if not Path(path).exists() and (published := of_name(name)) is not None:
        if published.loader in NO_SAE:
            raise ValueError(f"{path} is {NO_SAE[published.loader].format(repo=published.repo)}")
        name = f"{published.repo}/{published.path}".strip("/")
    hub_id = None if Path(path).exists() else _ID.fullmatch(name)
    if hub_id is None:
        if revision is not None:
            raise ValueError(f"{path} is no hub id (owner/name or owner/name/folder): it has no revision {revision!r}")
        return Path(path)
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ValueError(f"{revision!r} is no revision: give a branch, a tag or a commit")
    repo, folder = hub_id["repo"], hub_id["folder"] or ""
    validate_repo_id(repo)
    found = _cached(repo, folder, revision)
    if found is None and folder.endswith(FILES):
        return _file(repo, folder, revision)
    if found is None and several:
        found = _cached_several(repo, folder, revision)
    return found or _fetched(repo, folder, revision, several=several)


def cached_saes() -> dict[str, list[str]]:
    """Hub id, with the folder -> its revisions in the cache (commits where no name points)."""
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return {}
    found: dict[str, list[str]] = {}
    for repository in repositories:
        for revision in repository.revisions:
            names = (file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files)
            for folder in folders_of(names):
                at = found.setdefault(_joined(repository.repo_id, folder), [])
                at += sorted(revision.refs) or [revision.commit_hash]
    return {name: sorted(found[name]) for name in sorted(found)}


def folders_of(names: Iterable[str]) -> list[str]:
    """Folders, among a repository's files, that hold an SAE."""
    files = set(names)
    folders = {name.rpartition("/")[0] for name in files}
    return sorted(folder for folder in folders if any(files >= set(_inside(folder, layout)) for layout in LAYOUTS))


def names_below(folder: Path) -> list[str]:
    """Of its files, in folders up to three deep; the first of them where there are very many."""
    patterns = ("*/*", "*/*/*", "*/*/*/*")
    paths = (path for pattern in patterns for path in folder.glob(pattern))
    return [path.relative_to(folder).as_posix() for path in islice(paths, _LOOKED_AT)]


def only_one_below(place: Path) -> Path:
    """The folder of the one SAE below a folder without such files itself, as ``interp sae publish`` writes it; else the
    place itself."""
    if not place.is_dir() or any(path.suffix in (*FILES, ".json", ".yaml") for path in place.iterdir()):
        return place
    below = folders_of(names_below(place))
    return place / below[0] if len(below) == 1 else place


def _inside(folder: str, names: Iterable[str]) -> list[str]:
    return [_joined(folder, name) for name in names]


def _joined(first: str, second: str) -> str:
    return f"{first}/{second}".strip("/")


def _cached(repo: str, folder: str, revision: str | None) -> Path | None:
    for layout in LAYOUTS:
        found = [try_to_load_from_cache(repo, name, revision=revision) for name in _inside(folder, layout)]
        if all(isinstance(file, str) for file in found):
            return Path(str(found[0])).parent
    return None


def _cached_several(repo: str, folder: str, revision: str | None) -> Path | None:
    """A folder that holds the first file of a dictionary over several places; who reads it counts the others."""
    for patterns in (*SEVERAL, (_LIST,)):
        found = try_to_load_from_cache(
            repo, _joined(folder, patterns[0].replace("*", "000" if "part" in patterns[0] else "0")), revision=revision
        )
        if isinstance(found, str):
            return Path(found).parent
    return None


def _file(repo: str, name: str, revision: str | None) -> Path:
    """One file, with what its kind may keep beside it; or a folder that is called as files are."""
    found = try_to_load_from_cache(repo, name, revision=revision)
    if isinstance(found, str):
        return Path(found)
    folder, _, last = name.rpartition("/")
    beside = _inside(folder, ["config.yaml", "config.json", f"{last.removesuffix('.pt')}_cfg.json"])
    try:
        snapshot = snapshot_download(repo, revision=revision, allow_patterns=[name, f"{name}/*", *beside])
    except Exception as error:
        raise _cannot_be_had(_joined(repo, name), error) from error
    if not Path(snapshot, name).exists():
        raise ValueError(f"{repo} holds no file {name}")
    return Path(snapshot, name)


def _cannot_be_had(what: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    here = (f"{name} ({', '.join(revisions)})" for name, revisions in cached_saes().items())
    return ValueError(
        f"{what} is neither a folder here nor in the hub's cache, and cannot be had from the hub ({reason})."
        f" SAEs in the cache: {_list(here)}"
    )


def _fetched(repo: str, folder: str, revision: str | None, *, several: bool) -> Path:
    what = _joined(repo, folder) + (f" at {revision}" if revision else "")
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_QUESTION_SECONDS)
        there = [file.rfilename for file in info.siblings or ()]
        if folder in folders_of(there):
            wanted = _inside(folder, [*sorted({name for layout in LAYOUTS for name in layout}), *_BESIDE])
            wanted += _inside(folder.rpartition("/")[0], [_ABOVE]) if folder else []
            snapshot = snapshot_download(repo, revision=revision, allow_patterns=wanted)
            return Path(snapshot, folder)
        whole = [name for name in there if _of_several(name, folder)]
        if not whole and not folders_of(there):
            whole = [name for name in there if name == _joined(folder, _LIST)]
        if whole and several:
            beside = _inside(folder, _CONFIGS)
            return Path(snapshot_download(repo, revision=revision, allow_patterns=[*whole, *beside]), folder)
    except Exception as error:  # of the client's own kinds and of whatever HTTP library it uses this year
        raise _cannot_be_had(what, error) from error
    others = (_joined(repo, other) for other in folders_of(there))
    if whole:
        raise ValueError(f"{what} is a dictionary over several places; load it with saes.places.load_any")
    raise ValueError(f"{what} holds no SAE of a known format; in that repository there are: {_list(others)}")


def _of_several(name: str, folder: str) -> bool:
    """Whether a file of a repository is one of a dictionary over several places in that folder."""
    parent, _, last = name.rpartition("/")
    return parent == folder and any(fnmatchcase(last, pattern) for patterns in SEVERAL for pattern in patterns)


def _list(names: Iterable[str]) -> str:
    first = list(names)
    more = f" and {len(first) - _LISTED} more" if len(first) > _LISTED else ""
    return (", ".join(first[:_LISTED]) + more) or "none"
