"""A value of another kind than a function takes: a path for what lies there, a name for a model."""

from typing import Any


def require(value: Any, kinds: type | tuple[type, ...], *, what: str, fix: str) -> None:
    """Raises ValueError, which names the value's kind and the fix, where ``value`` is of none of ``kinds``.

    Example:
        >>> from interp.arguments.kinds import require
        >>> require(3, str, what="a model", fix="a name, such as 'gpt2'")
        Traceback (most recent call last):
        ValueError: a model wanted, not int (3): pass a name, such as 'gpt2'
    """
    if isinstance(value, kinds):
        return
    shown = f" ({value!r})" if isinstance(value, str | int | float) else ""
    raise ValueError(f"{what} wanted, not {_kind(value)}{shown}: pass {fix}")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
