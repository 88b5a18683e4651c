"""Safetensors files, written here so that a full disk is an error in words and nothing is held or read twice.

``write_sealed`` puts a checksum of everything else into the file's metadata, for those that a later run continues from.
The same tensors give the same bytes.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.files.seals import SEAL
from interp.files.writing import atomic_path

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_METADATA = "__metadata__"
_BLOCK = 1 << 22


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file, atomically; returns the SHA-256 of its bytes.

    Raises:
        DiskFull: there is no room; what was there before stays.
    """
    header, ordered = _layout(tensors, metadata or {})
    digest = hashlib.sha256()
    blocks: Iterator[bytes | memoryview] = chain([_encoded(header)], map(bytes_of, ordered))
    with atomic_path(path) as partial, partial.open("wb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same, with ``metadata`` and a checksum over all that the file says and holds; see :func:`read_sealed`."""
    header, ordered = _layout(tensors, metadata)
    header.setdefault(_METADATA, {})
    digest = hashlib.sha256(_said(header))
    with atomic_path(path) as partial, partial.open("wb") as file:
        header[_METADATA][SEAL] = "0" * digest.digest_size * 2  # as long as what replaces it
        file.write(_encoded(header))
        for block in map(bytes_of, ordered):
            file.write(block)
            digest.update(block)
        file.seek(0)
        header[_METADATA][SEAL] = digest.hexdigest()
        file.write(_encoded(header))


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, mapped into memory, and metadata of a file that ``write_sealed`` wrote, after every byte was checked.

    One without a checksum, of an earlier version, is read if it is whole.

    Raises:
        ValueError: it is damaged; the message says how.
    """
    if fault := _fault(path):
        raise ValueError(f"{path} {fault}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _fault(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"is truncated: {size} bytes"
        try:
            header = json.loads(file.read(length))
            seal = header.get(_METADATA, {}).get(SEAL)
            digest = hashlib.sha256(_said(header))
        except (ValueError, AttributeError, RecursionError):
            return "is damaged: its header cannot be read"
        if seal is None:
            return None  # of an earlier version
        while block := file.read(_BLOCK):
            digest.update(block)
    return None if digest.hexdigest() == seal else "was altered: its checksum differs"


def _layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Any], list[Tensor]]:
    """The header, and the tensors in the order of their bytes: as in safetensors, the widest dtype first, so that
    every tensor is aligned."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    return header, [tensor for _, tensor in ordered]


def _said(header: Mapping[str, Any]) -> bytes:
    """What a header says, without the checksum."""
    rest = {name: value for name, value in header.get(_METADATA, {}).items() if name != SEAL}
    return json.dumps({**header, _METADATA: rest}, sort_keys=True).encode()


def _encoded(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def bytes_of(tensor: Tensor) -> memoryview:
    """The values of a tensor, in order. A single one may come from an expanded view, without a stride to count by."""
    values = tensor.detach().cpu().contiguous()
    return values.as_strided((values.numel(),), (1,)).view(torch.uint8).numpy().data
