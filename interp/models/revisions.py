"""A folder with the checkpoints of a training: one model a ``step{N}`` folder."""

import re
from pathlib import Path


def step_folders(folder: Path) -> dict[str, Path]:
    """Revisions kept as ``step{N}`` subfolders, by name and in order of training."""
    found = [path for path in folder.glob("step*") if re.fullmatch(r"step\d+", path.name) and _is_model(path)]
    return {path.name: path for path in sorted(found, key=lambda path: int(path.name.removeprefix("step")))}


def revision_folder(folder: Path, revision: str | None) -> tuple[Path, str | None]:
    """The folder that holds ``revision`` of the model in ``folder``, and the revision's name.

    Without a revision: ``folder`` itself if it holds a model, or else its last step.

    Raises:
        ValueError: there is no such revision (the message lists those there are), or no model at all.
    """
    steps = step_folders(folder)
    if revision is None:
        if _is_model(folder):
            return folder, None
        if not steps:
            raise ValueError(f"{folder} holds no model: neither a config.json nor step{{N}} folders with one")
        revision = list(steps)[-1]
    if revision not in steps:
        exist = f"it has {', '.join(steps)}" if steps else "it has no step{N} folders, so leave revision out"
        raise ValueError(f"{folder} has no revision {revision!r}; {exist}")
    return steps[revision], revision


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()
