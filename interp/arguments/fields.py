"""Are the fields of a config of the kinds that its annotations say? A number in quotes, a truth value for a number."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    Path: "a path",
    NoneType: "None",
}


def require_fields(config: Any) -> None:
    """Look at every field of a dataclass whose annotations are numbers, texts, paths, literals, and tuples, mappings
    and unions of these.

    Raises ValueError naming the field, its value, what is allowed, and the fix.

    Example:
        >>> from dataclasses import dataclass
        >>> from interp.arguments.fields import require_fields
        >>> @dataclass
        ... class Config:
        ...     k: int | None = None
        >>> require_fields(Config(k="8"))
        Traceback (most recent call last):
        ValueError: k is '8'; it must be a whole number or None: pass k=8
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if not _fits(value, hint):
            raise ValueError(f"{field.name} is {value!r}; it must be {_allowed(hint)}: {_fix(field, value, hint)}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def _allowed(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_allowed(one) for one in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        its = [_allowed(one) for one in inner if one is not Ellipsis]
        return f"a tuple, of any length, of {its[0]} each" if Ellipsis in inner else f"a tuple: {', '.join(its)}"
    if origin is dict:
        return "a mapping" if inner[1] is Any else f"a mapping whose values are each {_allowed(inner[1])}"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _fix(field: Field[Any], value: Any, hint: Any) -> str:
    for candidate in _candidates(value):
        if _fits(candidate, hint):
            return f"pass {field.name}={candidate!r}"
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return "it has no default" if default is MISSING else f"leave it out for {default!r}"


def _candidates(value: Any) -> Iterator[Any]:
    """What may have been meant; 1.5 is no whole number, and a truth value no number."""
    if isinstance(value, bool):
        return
    for kind in (int, float):
        try:
            number = kind(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if isinstance(value, str) or number == value:
            yield number
    if isinstance(value, os.PathLike):
        yield str(value)
    if isinstance(value, list):
        yield tuple(value)
    yield (value,)
