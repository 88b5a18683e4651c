"""What the formats share: weights from files that are not trusted, checked before they are used."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from interp.files.outside import reading


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file."""
    with reading(path):
        return load_file(path)


def read_pickled_tensors(path: Path) -> dict[str, Any]:
    """A state dict, mapped into memory; a pickle of more than tensors and plain containers is refused, not executed."""
    with reading(path, "is damaged or holds more than tensors, and was not executed"):
        mapped = zipfile.is_zipfile(path)  # files of before torch 1.6 are not, and are read whole
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a dictionary of tensors")
    with reading(path, "holds a tensor of a kind that no SAE has"):
        for name, tensor in _tensors_in(value):
            if tensor.is_nested or tensor.is_quantized or tensor.layout is not torch.strided:
                raise ValueError(f"{name} is nested, sparse or quantised")
            # A view may claim any shape over one stored number, and take that much memory once it is copied.
            if tensor.is_meta or tensor.untyped_storage().nbytes() < tensor.nbytes:
                raise ValueError(f"{name} claims the shape {tuple(tensor.shape)}, but does not store its values")
    return value


def _tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state dict, by the names that lead to them."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors_in(entry, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _tensors_in(entry, name)


def renamed(found: Mapping[str, Any], names: Mapping[str, str], *, where: Path) -> dict[str, Any]:
    """Tensors under our names, of which ``names`` (theirs -> ours) says those that differ.

    Raises ValueError where two tensors are of one name: only one of them could be used.
    """
    weights: dict[str, Any] = {}
    for theirs, value in found.items():
        ours = names.get(theirs, theirs)
        if ours in weights:
            both = ", ".join(name for name in found if names.get(name, name) == ours)
            raise ValueError(f"{where}: {both} are the same weight, and the file holds more than one of them")
        weights[ours] = value
    return weights


def check_skip(weights: Mapping[str, Any], expected: bool, *, said: str, where: Path) -> None:
    """Raises ValueError where the configuration and the tensors differ on whether there is a skip connection."""
    if ("W_skip" in weights) != expected:
        raise ValueError(f"{where}: {said}, and its weights hold {'no' if expected else 'a'} skip connection (W_skip)")


def check_sizes(weights: Mapping[str, Any], *, d_in: Any = None, d_sae: Any = None, where: Path) -> None:
    """Raises ValueError where sizes that a configuration says (not None, nor 0) are not those of
    ``W_enc`` [d_in, d_sae]: one of the two files is another dictionary's."""
    if weights["W_enc"].ndim != 2:
        return  # which is told with the shape
    for name, said, size in zip(("d_in", "d_sae"), (d_in, d_sae), weights["W_enc"].shape, strict=True):
        if said and said != size:
            raise ValueError(f"{where}: its configuration says {name} {said!r}, its weights have {size}")


def widest(values: Iterable[Tensor]) -> torch.dtype:
    """The narrowest dtype that holds all of the values as they are."""
    return reduce(torch.promote_types, (value.dtype for value in values))


def all_finite(value: Tensor) -> bool:
    """Whether every value is finite, looked through in parts, so that it takes little memory."""
    rows = torch.atleast_1d(value)
    at_a_time = max(1, 2**18 // max(1, rows[:1].numel()))
    return all(bool(part.isfinite().all()) for part in rows.split(at_a_time))


def whole_number(value: Any, *, name: str, where: Path) -> int:
    """A count from a configuration or a pickled tensor."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if type(value) is not int or value < 1:
        raise ValueError(f"{where}: {name} is {value!r}; it must be a whole number of 1 or more")
    return value


def text(value: Any) -> str | None:
    """A name from a configuration, where there is one."""
    return value if isinstance(value, str) else None
