"""What a result is, in a line: its arrays are shapes, and what holds many things says how many."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from typing import Any

_MOST = 6
_LONGEST = 80


def short_repr(result: Any) -> str:
    """Of a dataclass, to be its ``__repr__``: all numbers of a tensor, or all edges of a circuit, would fill screens.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from interp.terminal.short_repr import short_repr
        >>> @dataclass
        ... class Scores:
        ...     values: torch.Tensor
        ...     method: str
        ...     __repr__ = short_repr
        >>> Scores(torch.zeros(4, 17), "atp")
        Scores(values=[4, 17], method='atp')
    """
    shown = (f"{field.name}={_short(getattr(result, field.name))}" for field in fields(result) if field.repr)
    return f"{type(result).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(shape := getattr(value, "shape", None), tuple):
        return f"[{', '.join(map(str, shape))}]"
    if isinstance(value, Mapping | Sequence | Set) and not isinstance(value, str | bytes):
        if len(value) > _MOST:
            return f"<{len(value):,}>"
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{key!r}: {_short(each)}" for key, each in value.items()) + "}"
        return "(" + ", ".join(map(_short, value)) + ")"
    return cut_repr(value, _LONGEST)


def cut_repr(value: Any, longest: int) -> str:
    """Its ``repr``, cut where it is longer than so many characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 2]} …"
