"""Whether a Zstandard file is whole. Its decoder takes the end of a file for the end of the data, wherever it comes."""

import struct
from pathlib import Path
from typing import BinaryIO

_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_LONGEST_HEADER = 18
_RLE, _RESERVED = 1, 3


def check_zstd_frames(path: Path) -> None:
    """Walk over the frames and their blocks (RFC 8878, section 3.1), unpacking none.

    Raises:
        ValueError: naming the byte at which a frame begins that is not whole, or that is none.
    """
    size = path.stat().st_size
    if not size:
        raise ValueError("it is empty, and even no data packed is a frame")
    with path.open("rb") as file:
        begin = 0
        while begin < size:
            end = _end_of_frame(file, begin)
            if end is None or end > size:
                raise ValueError(f"it is cut off at byte {size}, inside the frame that begins at byte {begin}")
            begin = end


def _end_of_frame(file: BinaryIO, begin: int) -> int | None:
    """The byte after a frame, None where the file ends before that can be known."""
    import zstandard

    file.seek(begin)
    head = file.read(_LONGEST_HEADER)
    if len(head) < 8:
        return None
    magic, length = struct.unpack("<II", head[:8])
    if magic in _SKIPPABLE:
        return begin + 8 + length
    try:
        header, checksum = zstandard.frame_header_size(head), zstandard.get_frame_parameters(head).has_checksum
    except zstandard.ZstdError as error:
        if len(head) < _LONGEST_HEADER:
            return None
        raise ValueError(f"no frame begins at byte {begin}: {error}") from error
    end, last = begin + header, False
    while not last:
        file.seek(end)
        block = file.read(3)
        if len(block) < 3:
            return None
        bits = int.from_bytes(block, "little")
        last, kind, length = bool(bits & 1), bits >> 1 & 3, bits >> 3
        if kind == _RESERVED:
            raise ValueError(f"the block at byte {end} is of no known kind")
        end += 3 + (1 if kind == _RLE else length)
    return end + (4 if checksum else 0)
