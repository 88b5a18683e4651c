"""One shard of a store: a safetensors file of aligned columns, and a note beside it that says what it should be.

``tokens``, ``documents`` and ``positions`` (int32) say which token a row belongs to; every site is one [n, d] tensor.
The same tensors give the same bytes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from interp.files.outside import read_json, reading
from interp.files.tensor_files import write_tensors
from interp.files.writing import sha256_of_file, write_json
from interp.store.quantise import SCALE, STORAGE

COLUMNS = ("tokens", "documents", "positions")


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a whole and unaltered shard is."""

    count: int
    """How many rows of activations it holds."""
    bytes: int
    """Size of its file, in bytes."""
    sha256: str
    """SHA-256 of its file, in hexadecimal."""

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
    """Write the shard, then its note, each atomically. A kill in between leaves a shard that is written again."""
    digest = write_tensors(path, tensors)
    record = ShardRecord(count=len(tensors[COLUMNS[0]]), bytes=path.stat().st_size, sha256=digest)
    write_json(path.with_suffix(".json"), asdict(record))


def read_record(path: Path) -> ShardRecord | None:
    """The note beside a shard; None where there is none that can be read."""
    try:
        return ShardRecord.from_json(read_json(path.with_suffix(".json")))
    except ValueError:
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
    with reading(path, "is not a safetensors file"), safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} != expected:
        raise ValueError(f"{path} does not hold the tensors that the store's manifest promises")
    return found
