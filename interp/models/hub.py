"""Models of the Hugging Face hub: what its cache holds, and a fetch that fails at once where there is no network.

Left to itself the hub's client retries every file for half a minute before it says so. Here the cache is asked
first (a model that is in it needs no network), then the hub with one short question, and only then files move.
"""

import re
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from interp.files.outside import read_json, reading

_QUESTION_SECONDS = 5.0
# Of several formats of the same weights only one is fetched; safetensors before pickles.
_WEIGHTS = (r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin")
_SMALL_FILES = r"[^/]+\.(json|txt|model|tiktoken|jinja)"


def snapshot(repo: str, revision: str | None) -> Path:
    """Folder with a model's files, from the cache or else from the hub.

    Raises:
        ValueError: not a hub id, no such model or revision, the hub cannot be reached, or no weights in a known format.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ValueError(f"{repo!r} is neither a short name, a folder, a .gguf file nor a hub id") from None
    return cached_snapshot(repo, revision) or _download(repo, revision)


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Folder of a model whose configuration and weights are all in the cache; never asks the network."""
    config = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) and _has_weights(Path(config).parent) else None


def cached_models() -> dict[str, list[str]]:
    """Hub id -> its revisions whose configuration and weights are all in the cache (commits where no name points)."""
    found: dict[str, list[str]] = {}
    for repo in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        names: dict[str, list[str]] = {}
        for ref in sorted(path for path in (repo / "refs").rglob("*") if path.is_file()):
            names.setdefault(ref.read_text(encoding="utf-8", errors="replace").strip(), []).append(
                ref.relative_to(repo / "refs").as_posix()
            )
        whole = [config.parent for config in (repo / "snapshots").glob("*/config.json") if _has_weights(config.parent)]
        if revisions := [name for folder in whole for name in names.get(folder.name, [folder.name])]:
            found[repo.name.removeprefix("models--").replace("--", "/")] = sorted(revisions)
    return found


def _has_weights(folder: Path) -> bool:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return True
        if index.is_file():
            try:
                with reading(index):
                    shards = set(read_json(index)["weight_map"].values())
                    return all((folder / shard).is_file() for shard in shards)
            except ValueError:
                return False  # damaged: to be fetched again
    return False


def _download(repo: str, revision: str | None) -> Path:
    what = repo if revision is None else f"revision {revision!r} of {repo}"
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_QUESTION_SECONDS)
    except GatedRepoError:
        raise ValueError(f"{repo} is gated: accept its licence on its hub page, then run `hf auth login`") from None
    except RevisionNotFoundError:
        raise ValueError(f"the hub has {repo}, but no revision {revision!r} of it") from None
    except RepositoryNotFoundError:
        raise ValueError(f"the hub has no model {repo!r} (or it is private: run `hf auth login`)") from None
    except OfflineModeIsEnabled:
        raise ValueError(f"{what} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it") from None
    except Exception as error:  # of the client's own kinds and of whatever HTTP library it uses this year
        raise ValueError(f"{what} is not in the hub's cache, and the hub cannot be reached ({error})") from error
    files = wanted_files([sibling.rfilename for sibling in info.siblings or ()])
    if not files:
        raise ValueError(f"{what} has no weights as safetensors or pytorch_model.bin (a GGUF file is loaded by path)")
    return Path(snapshot_download(repo, revision=revision, allow_patterns=files))


def wanted_files(names: list[str]) -> list[str]:
    """Of a repository's files those to fetch: one format of weights, configuration and tokenizer; none, no weights."""
    for pattern in _WEIGHTS:
        if weights := [name for name in names if re.fullmatch(pattern, name)]:
            return weights + [name for name in names if re.fullmatch(_SMALL_FILES, name)]
    return []
