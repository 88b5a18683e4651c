"""A checksum inside a JSON object, over all the rest of it: for files that a later run believes.

A flipped bit in a number leaves good JSON, and would otherwise be taken at its word. Files of versions before this one
have no checksum and are read as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.files.writing import write_json

SEAL = "checksum"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with its checksum."""
    return {**value, SEAL: _checksum(value)}


def is_broken(value: Mapping[str, Any]) -> bool:
    """Whether ``value`` has a checksum, and it is another one's."""
    return SEAL in value and value[SEAL] != _checksum(value)


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`interp.files.writing.write_json`, with the checksum inside."""
    write_json(path, sealed(value))


def _checksum(value: Mapping[str, Any]) -> str:
    rest = {name: item for name, item in value.items() if name != SEAL}
    as_read = json.loads(json.dumps(rest))  # keys are text there
    text = json.dumps(as_read, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
