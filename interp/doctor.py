"""What this machine and environment offer: the facts behind ``interp doctor``, found without the network.

Every part is looked at on its own, so that a missing or broken package is itself a finding and hides no other.
"""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from interp.name_clash import clashes, fix

_PACKAGES = (
    "deepfield torch transformers transformer-lens nnsight safetensors datasets tokenizers gguf huggingface-hub numpy"
    " einops jaxtyping plotly cyclopts rich"
).split()
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Device:
    """Something that models run on."""

    name: str
    """As ``load_model`` takes it: ``cpu``, ``cuda:0``, ``mps``."""
    description: str
    """What it is called by its maker or its system."""
    memory_bytes: int | None
    """All of its memory, in bytes; None where that is not known."""
    free_bytes: int | None
    """What of that is free now; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """Where fetched files are kept."""

    holds: str
    """What is kept there, such as models."""
    path: str
    """Where the folder is on this machine."""
    used_bytes: int
    """Of the files in it; a link counts as nothing, and 0 where the folder does not exist yet."""
    free_bytes: int
    """Left on its disk for this user."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything ``interp doctor`` prints."""

    python: str
    """Version of the interpreter that runs."""
    system: str
    """Operating system and processor of this machine."""
    packages: dict[str, str | None]
    """Installed version by name; None where the package is missing."""
    devices: list[Device]
    """What models can run on here."""
    clashes: dict[str, list[str]]
    """Import name of ours -> other distributions that claim it."""
    fix: str | None
    """The command that ends the clashes."""
    caches: list[CacheFolder]
    """Where fetched files are kept on this machine."""
    hub_offline: bool | None
    """The hub's client was told to stay off the network (``HF_HUB_OFFLINE``)."""
    loadable_offline: dict[str, list[str]]
    """Model -> revisions that load here without a network (none for a single file)."""
    problems: list[str]
    """What could not be found out, and why."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What ``interp doctor MODEL`` prints of a model."""

    name: str
    """What the model was asked for by."""
    revision: str | None
    """Revision of its files; None where they have none."""
    architecture: str
    """The class of Hugging Face's model."""
    layers: int
    """How many blocks it has."""
    d_model: int
    """Width of its residual stream."""
    context: int
    """Longest row of tokens."""
    vocabulary: int
    """How many ids its embedding has."""
    bos: str | None
    """The token that begins every text, however it becomes ids; None where the published tokenizer puts none."""
    bos_id: int | None
    """Id of that token; None where there is none."""


def examine(name: str, *, revision: str | None = None) -> ModelFacts:
    """Load a model and say what it is, and whether a BOS token begins its texts. Raises what ``load_model`` raises."""
    from interp.models.loading import load_model
    from interp.models.source import context_length, puts_bos, source_of

    model = load_model(name, revision=revision, device="cpu")
    begins = model.tokenizer is not None and puts_bos(model.tokenizer)
    return ModelFacts(
        name=source_of(model).name,
        revision=source_of(model).revision,
        architecture=type(model.original_model).__name__,
        layers=int(model.cfg.n_layers),
        d_model=int(model.cfg.d_model),
        context=context_length(model),
        vocabulary=int(model.cfg.d_vocab),
        bos=model.tokenizer.bos_token if begins else None,
        bos_id=model.tokenizer.bos_token_id if begins else None,
    )


def diagnose() -> Diagnosis:
    """Look at everything once; never raises for what is missing or broken."""
    problems: list[str] = []

    def attempt(what: str, look: Callable[[], _T], otherwise: Any) -> _T:
        try:
            return look()
        except Exception as error:  # a broken package fails at import in whatever way it likes
            problems.append(f"{what}: {type(error).__name__}: {error}")
            return otherwise

    found = attempt("name clashes", clashes, {})
    return Diagnosis(
        python=platform.python_version(),
        system=platform.platform(),
        packages={name: _version(name) for name in _PACKAGES},
        devices=attempt("devices", _devices, []),
        clashes=found,
        fix=fix(found) if found else None,
        caches=[
            *attempt("deepfield's cache", _deepfield_cache, []),
            *attempt("the hub's cache", _hub_cache, []),
        ],
        hub_offline=attempt("the hub's offline mode", _hub_offline, None),
        loadable_offline=attempt("models that load offline", _loadable_offline, {}),
        problems=problems,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[Device]:
    import torch

    found = [
        Device(
            name="cpu",
            description=f"{platform.machine()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
            memory_bytes=None,
            free_bytes=None,
        )
    ]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(Device(name=f"cuda:{index}", description=name, memory_bytes=total, free_bytes=free))
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory()
        found.append(Device(name="mps", description="Apple GPU", memory_bytes=memory, free_bytes=None))
    return found


def _deepfield_cache() -> list[CacheFolder]:
    from interp.models.smollm2 import cache_folder

    return [_cache("weights that deepfield fetches", cache_folder())]


def _hub_cache() -> list[CacheFolder]:
    from huggingface_hub import constants

    return [_cache("the Hugging Face hub's models and data sets", Path(constants.HF_HUB_CACHE))]


def _cache(holds: str, path: Path) -> CacheFolder:
    path = path.absolute()
    used = sum(
        file.lstat().st_size
        for folder, _, names in os.walk(path)
        for file in (Path(folder, name) for name in names)
        if file.is_file() and not file.is_symlink()
    )
    disk = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return CacheFolder(holds=holds, path=str(path), used_bytes=used, free_bytes=shutil.disk_usage(disk).free)


def _hub_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _loadable_offline() -> dict[str, list[str]]:
    from interp.models.locate import loadable_offline

    return loadable_offline()
