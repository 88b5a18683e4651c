"""Options that several commands share."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """How text is cut into the rows that are measured."""

    sequences: int = 10
    """Rows to measure; the papers take 10."""
    context: int | None = None
    """Tokens a row; by default the model's context, at most 2048."""
    bos: Literal["model", "row", "document", "never"] = "never"
    """Where a beginning-of-sequence token is put; the papers put none."""
