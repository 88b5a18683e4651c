"""Gemma Scope: ``params.npz`` (the first release) or ``params.safetensors`` with lower-case names (the second)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp.files.outside import reading
from saes.activations import JumpReLU
from saes.convert.record import Record
from saes.convert.weights import read_safetensors

_NAMES = {"w_enc": "W_enc", "w_dec": "W_dec"}


def recognises(folder: Path) -> bool:
    """Whether one of its SAEs or transcoders is there."""
    return any((folder / f"params.{kind}").is_file() for kind in ("npz", "safetensors"))


def read(folder: Path) -> Record:
    """A JumpReLU SAE; b_dec is not subtracted from the input."""
    if (folder / "params.npz").is_file():
        found = _read_npz(folder / "params.npz")
    else:
        found = read_safetensors(folder / "params.safetensors")
    weights = {_NAMES.get(name, name): value for name, value in found.items()}
    if "affine_skip_connection" in weights:  # [d_in, d_out]
        weights["W_skip"] = weights.pop("affine_skip_connection").T.contiguous()
    return Record(
        activation=JumpReLU(),
        weights=weights,
        where=folder,
        subtract_b_dec=False,
        provenance={"imported": {"format": "gemma_scope"}},
    )


def _read_npz(path: Path) -> dict[str, Tensor]:
    complaint = "is damaged or holds more than arrays, and was not executed"
    with reading(path, complaint), np.load(path, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}
