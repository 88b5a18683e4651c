"""Where the checkpoints of a training run are, what exactly they are, and one of them at a time on this disk."""

import hashlib
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from interp import embedded
from interp.checkpoints.schedules import PYTHIA_STEPS
from interp.files.writing import sha256_of_file
from interp.models import hub
from interp.models.names import EMBEDDED, SHORT_NAMES, SMOLLM2
from interp.models.revisions import step_folders

logger = logging.getLogger(__name__)

_SMALL = ["*.json", "*.txt", "*.model"]
_SECONDS = 10.0


class MissingCheckpoint(Exception):
    """A checkpoint that cannot be had from anywhere; the sweep records it and goes on.

    Example:
        >>> import interp, torch
        >>> from interp.checkpoints import FolderSource, MissingCheckpoint
        >>> class Lost(FolderSource):  # a source of one's own says so
        ...     def fetch(self, checkpoint, folder):
        ...         if checkpoint.step == 0:
        ...             raise MissingCheckpoint("its disk failed")
        ...         return super().fetch(checkpoint, folder)
        >>> source = Lost(interp.embedded.MODEL_FOLDER, name="mine")
        >>> table = interp.massive.sweep(source, torch.arange(1, 17)[None], "massive", steps="0,5792").table
        >>> table.missing, [row.step for row in table.rows]
        ({0: 'its disk failed'}, [5792])
    """


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One revision of a training run.

    Example:
        >>> from interp.checkpoints import Checkpoint
        >>> Checkpoint(step=512, revision="step512")
        Checkpoint(step=512, revision='step512', commit=None)
    """

    step: int
    """Training steps taken at this checkpoint."""
    revision: str
    """As it is fetched: ``main`` where the branch of the last step does not exist."""
    commit: str | None = None
    """Of the hub; None for a folder."""


@runtime_checkable
class Source(Protocol):
    """A training run."""

    name: str

    @property
    def checkpoints(self) -> Mapping[int, Checkpoint]:
        """By step, those that exist."""
        ...

    @property
    def expected(self) -> Collection[int]:
        """Steps that should exist."""
        ...

    def config_folder(self) -> Path:
        """A folder with the configuration."""
        ...

    def tokenizer_folder(self) -> Path:
        """A folder with the tokenizer, if there is one."""
        ...

    def identity(self, checkpoint: Checkpoint) -> str:
        """What its files hold, without loading them into a model."""
        ...

    def bytes_of(self, checkpoint: Checkpoint) -> int:
        """Disk that :meth:`fetch` will take; 0 where it copies nothing."""
        ...

    def fetch(self, checkpoint: Checkpoint, folder: Path) -> Path:
        """Its files, in ``folder`` if they are not on this disk already."""
        ...


def open_source(model: str) -> Source:
    """A folder with ``step{N}`` subfolders, ``embedded``, or a model of the hub by short name or id.

    Raises ValueError where it has no checkpoints, or where neither the hub nor its cache can be asked.

    Example:
        >>> import interp
        >>> source = interp.checkpoints.open_source("embedded")
        >>> max(source.checkpoints)
        5792
    """
    if model == EMBEDDED:
        if len(embedded.steps()) == 1:
            logger.warning("there is one checkpoint of the embedded model here: %s", embedded.ELSEWHERE)
        return FolderSource(embedded.MODEL_FOLDER, name=EMBEDDED)
    path = Path(model).expanduser()
    if path.is_dir():
        return FolderSource(path.resolve(), name=str(path.resolve()))
    if model == SMOLLM2 or path.suffix == ".gguf" or model.startswith((".", "/", "~")):
        raise ValueError(
            f"{model} has no training checkpoints: give a folder with step{{N}} subfolders, embedded, or a"
            " model of the hub such as pythia-70m"
        )
    return HubSource(SHORT_NAMES.get(model, model))


class FolderSource:
    """Subfolders ``step{N}`` of a local folder; they stay where they are.

    Example:
        >>> import interp
        >>> from interp.checkpoints import FolderSource
        >>> source = FolderSource(interp.embedded.MODEL_FOLDER, name="mine")
        >>> max(source.checkpoints)
        5792
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        self.name, self._folder, self._steps = name, folder, step_folders(folder)
        if not self._steps:
            raise ValueError(f"{folder} has no step{{N}} folders with a model, so there is no training to follow")
        self.checkpoints = {_step(name): Checkpoint(step=_step(name), revision=name) for name in self._steps}
        self.expected = tuple(self.checkpoints)

    def identity(self, checkpoint: Checkpoint) -> str:
        """A checksum of configuration and weights."""
        digest = hashlib.sha256()
        folder = self._steps[checkpoint.revision]
        for file in sorted(path for path in folder.iterdir() if path.suffix in {".json", ".safetensors", ".bin"}):
            digest.update(f"{file.name} {sha256_of_file(file)}\n".encode())
        return f"files:{digest.hexdigest()}"

    def bytes_of(self, checkpoint: Checkpoint) -> int:
        """Nothing is copied."""
        return 0

    def fetch(self, checkpoint: Checkpoint, folder: Path) -> Path:
        """The subfolder itself."""
        return self._steps[checkpoint.revision]

    def config_folder(self) -> Path:
        """The last step's."""
        return list(self._steps.values())[-1]

    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is: beside the steps, or in the last of them."""
        return self._folder if any(self._folder.glob("tokenizer*")) else self.config_folder()


class HubSource:
    """Branches ``step{N}`` of a model of the hub, or what its cache holds of them where the hub cannot be asked.

    Example:
        >>> from interp.checkpoints import HubSource
        >>> source = HubSource("EleutherAI/pythia-70m")  # doctest: +SKIP
        >>> len(source.checkpoints), max(source.checkpoints)  # doctest: +SKIP
        (154, 143000)
    """

    def __init__(self, repo: str) -> None:
        self.name = repo
        revisions = self._revisions()
        found = {
            _step(name): Checkpoint(step=_step(name), revision=name, commit=commit)
            for name, commit in revisions.items()
            if re.fullmatch(r"step\d+", name)
        }
        pythia = repo.startswith("EleutherAI/pythia-")
        # Several sizes have no branch for the last step: there, main is it.
        if pythia and PYTHIA_STEPS[-1] not in found and "main" in revisions:
            found[PYTHIA_STEPS[-1]] = Checkpoint(step=PYTHIA_STEPS[-1], revision="main", commit=revisions["main"])
        if not found:
            raise ValueError(f"{repo} has no revisions named step{{N}}, so there is no training to follow")
        self.checkpoints = dict(sorted(found.items()))
        self.expected = PYTHIA_STEPS if pythia else tuple(self.checkpoints)
        self._files: dict[str, tuple[list[str], int]] = {}

    def _revisions(self) -> dict[str, str]:
        try:
            refs = HfApi().list_repo_refs(self.name)
        except RepositoryNotFoundError:
            raise ValueError(f"the hub has no model {self.name!r} (or it is private: run `hf auth login`)") from None
        except Exception as error:  # offline, or no answer: of the client's own kinds and its HTTP library's
            cached = hub.cached_models().get(self.name, [])
            found = {name: folder.name for name in cached if (folder := hub.cached_snapshot(self.name, name))}
            if not found:
                raise ValueError(
                    f"{self.name} is neither a folder nor in the hub's cache, and the hub cannot be asked ({error})"
                ) from error
            return found
        return {branch.name: branch.target_commit for branch in refs.branches}

    def identity(self, checkpoint: Checkpoint) -> str:
        """The commit, which names every byte."""
        return f"commit:{checkpoint.commit}"

    def bytes_of(self, checkpoint: Checkpoint) -> int:
        """Of the files to download; 0 for what the hub's cache holds already."""
        return 0 if hub.cached_snapshot(self.name, checkpoint.commit) else self._listing(checkpoint)[1]

    def fetch(self, checkpoint: Checkpoint, folder: Path) -> Path:
        """From the hub's cache, or else downloaded into ``folder``."""
        if cached := hub.cached_snapshot(self.name, checkpoint.commit):
            return cached
        files, _ = self._listing(checkpoint)
        snapshot_download(self.name, revision=checkpoint.commit, local_dir=folder, allow_patterns=files)
        return folder

    def config_folder(self) -> Path:
        """The last checkpoint's small files, kept in the hub's cache."""
        last = list(self.checkpoints.values())[-1]
        cached = hub.cached_snapshot(self.name, last.commit)
        return cached or Path(snapshot_download(self.name, revision=last.commit, allow_patterns=_SMALL))

    def tokenizer_folder(self) -> Path:
        """With the configuration."""
        return self.config_folder()

    def _listing(self, checkpoint: Checkpoint) -> tuple[list[str], int]:
        """Files to fetch, and their bytes."""
        if checkpoint.revision not in self._files:
            try:
                info = HfApi().model_info(self.name, revision=checkpoint.commit, files_metadata=True, timeout=_SECONDS)
            except (RevisionNotFoundError, EntryNotFoundError) as error:
                raise MissingCheckpoint(f"the hub has no such revision: {error}") from error
            sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
            files = hub.wanted_files(list(sizes))
            if not files:
                raise MissingCheckpoint("the revision holds no weights")
            self._files[checkpoint.revision] = files, sum(sizes[name] for name in files)
        return self._files[checkpoint.revision]


def discard(folder: Path) -> None:
    """Free the disk that a fetched checkpoint took."""
    shutil.rmtree(folder, ignore_errors=True)


def _step(name: str) -> int:
    return int(name.removeprefix("step"))


def none_of_these(steps: str, source: Source) -> str:
    """The message where no checkpoint that was asked for is there."""
    there = ", ".join(map(str, sorted(source.checkpoints))) or "none"
    return f"steps {steps}: {source.name} has none of these checkpoints; it has {there}"
