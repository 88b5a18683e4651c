"""Files from outside are read through here: whatever a parser raises becomes a ``ValueError`` that names the file.

A file may be cut, flipped, of another tool, or made to do harm, and every parser fails in its own way (``KeyError``,
``RecursionError``, ``struct.error`` …). So nothing that a parser, or the checks after it, can raise is
listed: :func:`reading` stands around both.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_LONGEST = 400
_LONE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def reading(where: str | Path, complaint: str = "cannot be read", *, fix: str = "") -> Iterator[None]:
    """Stand around a parser and the checks of what it found, which need not name the file themselves.

    Args:
        where: The file, as the reader of the message knows it.
        complaint: What is said of it, such as ``"is not a circuit"``.
        fix: A sentence for the end.

    Raises:
        ValueError: whatever the block raised, as ``{where} {complaint}: {reason}. {fix}``; unchanged where it is a
            ValueError that names the file already.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(where) in str(error):
            raise
        end = f". {fix}" if fix else ""
        raise ValueError(f"{where} {complaint}".rstrip() + f": {reason(error)}{end}") from error


def reason(error: BaseException) -> str:
    """An error in one line, without the file, which whoever asks has named."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}" if error.args else "something is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({Path(str(error.filename)).name})" if error.filename else error.strerror
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return text if text and isinstance(error, ValueError) else f"{type(error).__name__}{text and ': '}{text}"


def parse_json(text: str | bytes, where: str | Path, complaint: str = "is not JSON", *, fix: str = "") -> Any:
    """A value from JSON in UTF-8, whose strings can all be written again.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deeply, or a string in it holds half of a surrogate pair.
    """
    with reading(where, complaint, fix=fix):
        value, lone = _parsed(text)
        if lone:
            raise ValueError("a string in it holds half of a surrogate pair (as \\ud83d), which is no character")
        return value


def parse_json_text(text: str | bytes, where: str | Path, complaint: str = "is not JSON", *, fix: str = "") -> Any:
    """As :func:`parse_json`, for text that people wrote: half of a surrogate pair becomes U+FFFD, as decoders do."""
    with reading(where, complaint, fix=fix):
        value, lone = _parsed(text)
        return _whole(value) if lone else value


def read_json(path: Path, complaint: str = "is damaged", *, fix: str = "") -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    with reading(path, complaint, fix=fix):
        content = path.read_bytes()
    value = parse_json(content, path, complaint, fix=fix)
    with reading(path, complaint, fix=fix):
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
    return value


def check_still_whole(path: Path, size: int, *, fix: str) -> None:
    """Refuse a file that is mapped into memory and has become shorter since: reading it would end the process (SIGBUS).

    Raises:
        ValueError: it has fewer than ``size`` bytes now.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return  # what is mapped stays until it is let go
    if found < size:
        raise ValueError(f"{path} was truncated while it was read: {found} bytes instead of {size}. {fix}")


def record(kind: type[T], found: Any, *, name: str = "it", **given: Any) -> T:
    """A dataclass from the object of a JSON file: every field of its type, none missing, none besides.

    Args:
        kind: The dataclass. Its fields are numbers (finite), texts, booleans, None, dataclasses, and tuples,
            dictionaries by text and unions of these.
        found: The object.
        name: What the message calls it.
        given: Fields that are made elsewhere, and not looked for in ``found``.

    Raises:
        ValueError: naming the field.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{name} is a {type(found).__name__}, not an object")
    hints = {key: hint for key, hint in get_type_hints(kind).items() if key not in given}
    members = {field.name: field for field in fields(kind) if field.name not in given}  # type: ignore[arg-type]
    wanted = {key for key, field in members.items() if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(wanted - set(found)):
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    if unknown := sorted(set(found) - set(members)):
        raise ValueError(f"{name} has {', '.join(unknown)}, which it should not have")
    return kind(**given, **{key: typed(value, hints[key], f"{name}.{key}") for key, value in found.items()})


def typed(value: Any, kind: Any, name: str) -> Any:
    """A value of a JSON file as a type that the fields of :func:`record` may have; lists become tuples.

    Raises:
        ValueError: it is of another; ``name`` is what the message calls it.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return record(kind, value, name=name)
    if origin is UnionType:
        for option in inner:
            try:
                return typed(value, option, name)
            except ValueError:
                continue
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(typed(entry, inner[0], f"{name}[{index}]") for index, entry in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        return {key: typed(entry, inner[1], f"{name}.{key}") for key, entry in value.items()}
    elif kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    elif (kind is NoneType and value is None) or (kind in (int, str, bool) and type(value) is kind):
        return value
    wanted = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}.get(kind, kind)
    raise ValueError(f"{name} is {str(value)[:60]!r}; it must be {wanted}")


def _parsed(text: str | bytes) -> tuple[Any, bool]:
    """The value, and whether a string in it may hold a lone surrogate and does."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    value = json.loads(text)
    lone = bool(_ESCAPED_SURROGATE.search(text)) and bool(_LONE.search(json.dumps(value, ensure_ascii=False)))
    return value, lone


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(entry) for name, entry in value.items()}
    return value
