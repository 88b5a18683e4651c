"""The header of a GGUF file, read before any library sees it: what it lacks, a loader fills with a model of 28 GB.

A count in it can claim more entries than the file has bytes, and the loaders go through them one by one. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.arguments.extras import extra

with extra("gguf", "a GGUF file"):
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

# By number of the type; 8 is a text, 9 an array.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "B b H h I i f ? Q q d".split(), strict=True))
_TEXT, _ARRAY = 8, 9
_DEEPEST = 4
_SIZES = "embedding_length feed_forward_length vocab_size attention.head_count attention.head_count_kv"
_SIZES += " attention.key_length attention.value_length expert_count expert_feed_forward_length"


@dataclass(frozen=True, kw_only=True)
class GGUFHeader:
    """Keys, and the shapes of the tensors."""

    keys: dict[str, Any]
    """Numbers and texts; of an array its length alone."""
    shapes: dict[str, tuple[int, ...]]
    """Innermost dimension first, as the file has them."""


def check_gguf(path: Path) -> None:
    """Refuse a file whose sizes are not those of its tensors.

    Raises:
        ValueError: what is wrong, without the file's name: cut or damaged; of no architecture; a size is missing, or
            the tensors are not as many or as large.
    """
    header = read_gguf_header(path)
    if not isinstance(architecture := header.keys.get("general.architecture"), str):
        raise ValueError("it lacks general.architecture")
    sizes: dict[str, Any] = {}
    for name in ("block_count", "embedding_length"):
        sizes[name] = header.keys.get(f"{architecture}.{name}")
        if type(sizes[name]) is not int or sizes[name] < 1:
            raise ValueError(f"it lacks {architecture}.{name}, or that is no number of 1 or more ({sizes[name]!r})")
    blocks = {int(found[1]) for name in header.shapes if (found := re.search(r"(?:^|\.)blk\.(\d+)\.", name))}
    if len(blocks) != sizes["block_count"] or max(blocks) != sizes["block_count"] - 1:
        raise ValueError(f"it says {sizes['block_count']} blocks, and holds tensors of {len(blocks)}")
    embedding = header.shapes.get("token_embd.weight", ())
    if len(embedding) != 2 or embedding[0] != sizes["embedding_length"]:
        raise ValueError(
            f"it says vectors of {sizes['embedding_length']} entries, and token_embd.weight is {embedding or 'missing'}"
        )
    stored = sum(map(math.prod, header.shapes.values()))
    for name in _SIZES.split():
        size = header.keys.get(f"{architecture}.{name}", 0)
        if not isinstance(size, int) or not 0 <= size <= stored:
            raise ValueError(f"{architecture}.{name} is {size!r}, and the tensors hold {stored} numbers together")


def read_gguf_header(path: Path) -> GGUFHeader:
    """Keys and tensors, each checked to lie inside the file; no tensor's values are read.

    Raises:
        ValueError: not GGUF, of another version, cut, or damaged.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise ValueError("it is too short for a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> GGUFHeader:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        if (version := self._number("I")) not in (2, 3):
            raise ValueError(f"it is GGUF of version {version}; 2 and 3, little-endian, can be read")
        tensors, keys = self._number("Q"), self._number("Q")
        found: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text()
            found[name] = self._value(self._number("I"))
        places = [self._tensor() for _ in range(tensors)]
        shapes = {name: shape for name, shape, _ in places}
        if len(shapes) != len(places):
            raise ValueError("two tensors have one name")
        alignment = found.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}")
        begin = -(-self._at // alignment) * alignment
        for name, _, end in places:
            if begin + end > len(self._data):
                raise ValueError(f"it is cut off at byte {len(self._data)}: {name} ends at byte {begin + end}")
        return GGUFHeader(keys=found, shapes=shapes)

    def _tensor(self) -> tuple[str, tuple[int, ...], int]:
        """Name, shape, and where it ends after the header."""
        name = self._text()
        dimensions = self._number("I")
        if not 1 <= dimensions <= _DEEPEST:
            raise ValueError(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        a_block, its_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
        return name, shape, self._number("Q") + math.prod(shape) // a_block * its_bytes

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY or depth == _DEEPEST:
            raise ValueError(f"a value is of the unknown type {kind}, before byte {self._at}")
        inner, length = self._number("I"), self._number("Q")
        if inner in _NUMBERS:
            self._skip(length * struct.calcsize(_NUMBERS[inner]))
        else:
            for _ in range(length):
                self._value(inner, depth + 1) if inner == _ARRAY else self._skip(self._number("Q"))
        return length

    def _number(self, code: str) -> Any:
        begin = self._at
        self._skip(struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{code}", self._data, begin)[0]

    def _text(self) -> str:
        length = self._number("Q")
        begin = self._at
        self._skip(length)
        return self._data[begin : self._at].decode()

    def _skip(self, length: int) -> None:
        """Past some bytes, which must be there: so no count can claim more entries than the file has bytes."""
        if length > len(self._data) - self._at:
            raise ValueError(f"it is cut off or damaged at byte {self._at}, where {length} more bytes should follow")
        self._at += length
