"""A model and a task by name, for the commands."""

from pathlib import Path
from typing import Any

from circuits.commands.options import TaskOptions
from circuits.tasks.built_in import BUILT_IN
from circuits.tasks.task import Task
from interp.models.loading import load_model


def open_task(model: str, about: TaskOptions, *, direction: str) -> tuple[Any, Task]:
    """Load a model, and draw or read its prompts.

    Raises:
        ValueError: an unknown task, or one that does not fit the model's tokenizer.
    """
    require_task(about.task, about.prompts)
    loaded = load_model(model, revision=about.revision)
    return loaded, open_drawn_task(loaded, about.task, prompts=about.prompts, seed=about.seed, direction=direction)


def open_drawn_task(loaded: Any, task: str, *, prompts: int, seed: int, direction: str = "denoise") -> Task:
    """Draw or read the prompts of a task for a model that is loaded.

    Raises:
        ValueError: an unknown task, or one that does not fit the model's tokenizer.
    """
    require_task(task, prompts)
    if loaded.tokenizer is None:
        raise ValueError("the model has no tokenizer, which prompts need")
    if task in BUILT_IN:
        return BUILT_IN[task](loaded.tokenizer, prompts, seed, direction=direction)
    return Task.from_jsonl(task, loaded.tokenizer, direction=direction)


def require_task(task: str, prompts: int) -> None:
    """Before minutes go into loading a model.

    Raises:
        ValueError: it is neither built in nor a file, or no prompts are drawn.
    """
    if prompts < 1:
        raise ValueError(f"prompts is {prompts}; a task has 1 or more")
    if task not in BUILT_IN and not Path(task).is_file():
        raise ValueError(f"task {task!r} is neither one of {', '.join(BUILT_IN)} nor a JSONL file")
