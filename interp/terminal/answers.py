"""What a command found, as data: printed as JSON for scripts that ask for it with ``--json``."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, is_dataclass
from typing import Any

_answers: list[Any] | None = None


def answer(value: Any) -> None:
    """What the command found: plain data, dataclasses, paths, arrays. Without ``--json`` nothing is done with it."""
    if _answers is not None:
        _answers.append(value)


@contextmanager
def answering() -> Iterator[None]:
    """Within, what is printed goes to stderr; at the end the answer alone is on stdout, as one JSON value."""
    global _answers
    before, _answers, out = _answers, [], sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        given, _answers = _answers, before
        if given:
            out.write(json.dumps(plain(given[-1]), indent=2, allow_nan=False) + "\n")
            out.flush()


def plain(value: Any) -> Any:
    """For JSON: numbers that are not finite become None, tensors and arrays lists, keys texts.

    Example:
        >>> from interp.terminal.answers import plain
        >>> plain({1: (2.0, float("nan"))})
        {'1': [2.0, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | range):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
