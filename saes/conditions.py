"""How the model was run where an SAE was trained, as its files say: what measurements of it take by default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BOS = ("model", "row", "document", "never")
_PACKINGS = ("packed", "document")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """None, or nothing, where the files do not say."""

    context: int | None = None
    """How many tokens a row has."""
    packing: str | None = None
    """As :func:`interp.tokens.write_token_rows` takes it."""
    bos: str | None = None
    """As :func:`interp.tokens.write_token_rows` takes it."""
    first_position: int | None = None
    """Earlier positions of a row were not trained on."""
    drop_special: bool | None = None
    """Whether BOS, separators and other special tokens were not trained on."""
    drop_tokens: tuple[int, ...] = ()
    """Ids of tokens that were not trained on."""
    dtype: str | None = None
    """Number format of the model's weights."""
    notes: tuple[str, ...] = ()
    """What cannot be had here, in words."""


def conditions_of(provenance: Mapping[str, Any]) -> Conditions:
    """What a dictionary's files say, ours or another tool's; values that mean nothing are left out."""
    source = _mapping(provenance.get("source"))
    said = _mapping(_mapping(provenance.get("imported")).get("text"))
    return Conditions(
        context=_count(source.get("context"), said.get("context"), least=2),
        packing=_one_of(_PACKINGS, source.get("packing"), said.get("packing")),
        bos=_one_of(_BOS, source.get("bos"), said.get("bos")),
        first_position=_count(source.get("drop_first"), said.get("first_position"), least=0),
        drop_special=_one_of((True, False), source.get("drop_special"), said.get("drop_special")),
        drop_tokens=tuple(id_ for id_ in _list(said.get("drop_tokens")) if type(id_) is int and id_ >= 0),
        dtype=_one_of(("float32", "bfloat16", "float16", "float64"), source.get("model_dtype"), said.get("dtype")),
        notes=tuple(note for note in _list(said.get("notes")) if isinstance(note, str)),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _count(*values: Any, least: int) -> int | None:
    return next((value for value in values if type(value) is int and value >= least), None)


def _one_of(allowed: tuple[Any, ...], *values: Any) -> Any:
    return next((value for value in values if type(value) in (str, bool) and value in allowed), None)
