"""Counts as people write them on a command line: 250k, 2M."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


def parse_count(text: str) -> int:
    """``250_000``, ``250k``, ``2M``, ``1.5B`` as a whole number of 1 or more."""
    match = re.fullmatch(r"(-?[\d_,]*\.?\d+)([kmbg]?)", text.strip().lower())
    value = float(re.sub("[_,]", "", match[1])) * _UNITS[match[2]] if match else 0.0
    if value < 1 or value != int(value):
        raise ValueError(f"{text!r} is not a whole number of 1 or more, such as 250000, 250k or 2M")
    return int(value)


def _convert(_type: Any, tokens: Sequence[Any]) -> int:
    return parse_count(tokens[0].value)


def _convert_several(_type: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    return tuple(parse_count(part) for token in tokens for part in token.value.split(","))


Count = Annotated[int, Parameter(converter=_convert, allow_leading_hyphen=True, accepts_keys=False)]
"""An option of a command that is such a count."""
Counts = Annotated[tuple[int, ...], Parameter(converter=_convert_several, n_tokens=1, negative="", accepts_keys=False)]
"""Several of them with commas between: 1k,2k,5k."""
