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
    task = about.task
    if task not in BUILT_IN and not Path(task).is_file():
        raise ValueError(f"task {task!r} is neither one of {', '.join(BUILT_IN)} nor a JSONL file")
    loaded = load_model(model, revision=about.revision)
    if loaded.tokenizer is None:
        raise ValueError(f"{model} has no tokenizer, which prompts need")
    if task in BUILT_IN:
        return loaded, BUILT_IN[task](loaded.tokenizer, about.prompts, about.seed, direction=direction)
    return loaded, Task.from_jsonl(task, loaded.tokenizer, direction=direction)
