"""Dictionaries that are known and cannot be held as one SAE: each is refused with the reason."""

from dataclasses import dataclass
from pathlib import Path

from saes.hub import folders_of, names_below

_LISTED = 20
_WHOLE = "load it whole with saes.places.load_any"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Files by which a kind is known, and why it is not read."""

    files: tuple[str, ...]
    """Patterns, each of which some file of the folder matches."""
    why: str
    """The reason, as the end of an error message."""


REFUSED = {
    "a cross-layer transcoder of circuit-tracer": Refusal(
        files=("W_enc_*.safetensors", "W_dec_*.safetensors"),
        why=f"its latents write at several layers, and each layer is two files; {_WHOLE}",
    ),
    "a cross-layer transcoder or crosscoder of Gemma Scope 2": Refusal(
        files=("params_layer_*.safetensors",), why=f"it reads or writes at several layers, a file each; {_WHOLE}"
    ),
    "a temporal SAE": Refusal(
        files=("conf.yaml", "latest_ckpt.safetensors"), why="its latents depend on the tokens before, not on one token"
    ),
    "a set of circuit-tracer's transcoders": Refusal(
        files=("layer_*.safetensors",), why=f"it is one transcoder a layer; take one of its files, or {_WHOLE}"
    ),
    "a set of SAEs, a file each": Refusal(files=("*.pt",), why="take one of its files"),
}
"""What it is -> how it is known. The first that fits is told."""


def refuse(folder: Path) -> None:
    """Raises ValueError, with the reason, where ``folder`` holds one of these."""
    if not folder.is_dir():
        return
    if below := folders_of(names_below(folder)):
        raise ValueError(f"{folder} holds {len(below)} SAEs in folders; take one: {_listed(below)}")
    for what, refusal in REFUSED.items():
        found = [sorted(folder.glob(pattern)) for pattern in refusal.files]
        if all(found):
            listed = _listed([path.name for path in found[0]])
            raise ValueError(f"{folder} holds {what}, which is no single SAE: {refusal.why}. There are {listed}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
