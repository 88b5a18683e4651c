"""SAEs of other tools: read into ours, and ours written for them.

Every format is one small file with ``recognises(folder)``, ``read(folder)`` and, where the tool can be written for,
``write(sae, folder)``. What a tool cannot hold is refused by name rather than approximated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interp.files.outside import reading
from saes.convert import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    lone_files,
    saelens,
    sparsify,
)
from saes.convert.record import Record, Recordable
from saes.convert.refused import refuse


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one tool keeps an SAE in a folder."""

    recognises: Callable[[Path], bool]
    """Whether a folder holds an SAE of this format."""
    read: Callable[[Path], Record]
    """Reads the SAE that a folder holds."""
    write: Callable[[Record, Path], None] | None = None
    """Writes an SAE into a folder; None where the tool cannot be written for."""


FORMATS: dict[str, Format] = {
    "saelens": Format(recognises=saelens.recognises, read=saelens.read, write=saelens.write),
    "sparsify": Format(recognises=sparsify.recognises, read=sparsify.read, write=sparsify.write),
    "dictionary_learning": Format(
        recognises=dictionary_learning.recognises, read=dictionary_learning.read, write=dictionary_learning.write
    ),
    "gemma_scope": Format(recognises=gemma_scope.recognises, read=gemma_scope.read),
    "llama_scope": Format(recognises=llama_scope.recognises, read=llama_scope.read),
    "circuit_tracer": Format(recognises=circuit_tracer.recognises, read=circuit_tracer.read),
    "lone file": Format(recognises=lone_files.recognises, read=lone_files.read),
}
"""Name -> format."""


def read(folder: str | Path) -> Record:
    """What another tool wrote, as ``SAE.load`` builds itself from.

    Raises:
        ValueError: of no known format, damaged, or using something that our SAE does not have.
    """
    place = Path(folder)
    for name, form in FORMATS.items():
        if form.recognises(place):
            with reading(place, f"holds a {name} SAE that cannot be read"):
                return form.read(place)
    refuse(place)
    raise ValueError(f"{place} holds no SAE of a known format: deepfield, {', '.join(FORMATS)}")


def write(sae: Recordable, to: str, out: str | Path) -> None:
    """Write ``sae`` as the tool ``to`` keeps it.

    Raises:
        ValueError: a format that cannot be written, or an SAE that it cannot hold.
    """
    writable = {name: form.write for name, form in FORMATS.items() if form.write is not None}
    if to not in writable:
        raise ValueError(f"cannot write for {to!r}; there are {', '.join(writable)}")
    record = sae.record()
    if getattr(record.activation, "decoder_norms", False):
        raise ValueError(f"{to} selects latents by their values alone; this SAE by values times decoder norms")
    writable[to](record, Path(out))
