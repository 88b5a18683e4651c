"""One shard of a store: a safetensors file of aligned columns, and a note beside it that says what it should be.

``tokens``, ``documents`` and ``positions`` (int32) say which token a row belongs to; every site is one [n, d] tensor.
The same tensors give the same bytes.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.files import atomic_path, sha256_of_file, write_json
from interp.store.quantise import SCALE, STORAGE

COLUMNS = ("tokens", "documents", "positions")
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8", torch.int32: "I32"}


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a whole and unaltered shard is."""

    count: int
    """Rows."""
    bytes: int
    """Of the file."""
    sha256: str
    """Of the file."""

    @classmethod
    def from_json(cls, value: Any) -> "ShardRecord":
        """Read a record from a file that may hold anything."""
        kinds = {field.name: field.type for field in fields(cls)}
        if not isinstance(value, dict) or {name: type(item) for name, item in value.items()} != kinds:
            raise ValueError(f"not the record of a shard: {value!r}")
        record = cls(**value)
        if record.count < 0 or record.bytes < 0:
            raise ValueError(f"not the record of a shard: {value!r}")
        return record


def shard_path(folder: Path, index: int) -> Path:
    """Where shard ``index`` of the store in ``folder`` lies."""
    return folder / "shards" / f"{index:06d}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the shard, then its note, each atomically. A kill in between leaves a shard that is written again.

    Written here rather than by safetensors so that a full disk is an OSError and nothing is held or read twice.
    """
    # As safetensors does: the widest dtype first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    blocks: list[bytes | memoryview] = [struct.pack("<Q", len(text)), text, *(_bytes_of(t) for _, t in ordered)]
    digest = hashlib.sha256()
    with atomic_path(path) as partial, partial.open("wb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
    record = ShardRecord(count=len(tensors[COLUMNS[0]]), bytes=8 + len(text) + end, sha256=digest.hexdigest())
    write_json(path.with_suffix(".json"), asdict(record))


def read_record(path: Path) -> ShardRecord | None:
    """The note beside a shard; None where there is none that can be read."""
    try:
        return ShardRecord.from_json(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def shard_fault(path: Path, record: ShardRecord, *, checksum: bool) -> str | None:
    """What is wrong with a shard, in words; None if nothing is. Without ``checksum`` only its size is looked at."""
    if not path.is_file():
        return f"{path} is missing"
    if (size := path.stat().st_size) != record.bytes:
        return f"{path} is {'truncated' if size < record.bytes else 'too long'}: {size} bytes instead of {record.bytes}"
    if checksum and sha256_of_file(path) != record.sha256:
        return f"{path} was altered: its checksum differs"
    return None


def map_shard(path: Path, count: int, widths: Mapping[str, int], dtype: str) -> dict[str, Tensor]:
    """The tensors of a shard, mapped into memory and not copied; writing into them does not reach the file.

    Raises:
        ValueError: the file is no shard, or holds other tensors than it should.
    """
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {name: (torch.int32, (count,)) for name in COLUMNS}
    for name, width in widths.items():
        expected[name] = (STORAGE[dtype], (count, width))
        if dtype == "int8":
            expected[name + SCALE] = (torch.float32, (count,))
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} != expected:
        raise ValueError(f"{path} does not hold the tensors that the store's manifest promises")
    return found


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(torch.uint8).reshape(-1).numpy().data
