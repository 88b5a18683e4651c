"""Was the same asked? What a folder says of the run in it, beside what a command asks for now."""

from collections.abc import Mapping
from typing import Any

from interp.terminal.short_repr import cut_repr

_LONGEST = 120


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Every entry that differs, as ``part.key: there 1, asked 2``; those of mappings are compared one by one."""
    lines = []
    for key in sorted(found.keys() | asked.keys()):
        there, now = found.get(key), asked.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            lines += [f"{key}.{line}" for line in differences(there, now)]
        elif there != now:
            lines.append(f"{key}: there {cut_repr(there, _LONGEST)}, asked {cut_repr(now, _LONGEST)}")
    return lines


def check_same(
    found: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    where: object,
    unsaid: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Refuse to continue in ``where`` what was asked otherwise; ``unsaid`` is what entries of a part stand for where a
    description leaves them out.

    Raises:
        ValueError: with every difference.
    """
    for part, entries in (unsaid or {}).items():
        found, asked = ({**its, part: {**entries, **its[part]}} if part in its else its for its in (found, asked))
    if lines := differences(found, asked):
        raise ValueError(f"{where} holds another run ({'; '.join(lines)}); choose another folder")
