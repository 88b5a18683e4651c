"""Options that several commands share."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Which prompts."""

    task: str = "ioi"
    """ioi, greater_than, agreement, induction, docstring, or a JSONL file of clean, corrupt, correct, wrong."""
    prompts: int = 16
    """How many pairs of prompts to draw for a built-in task."""
    seed: int = 0
    """Seed of the draw of prompts."""
    revision: str | None = None
    """Training checkpoint of the model."""
