"""Safetensors files of ours: what the safetensors library reads, a checksum that misses no bit, and a full disk."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from interp.files.tensor_files import read_sealed, write_sealed, write_tensors
from interp.files.writing import sha256_of_file

ROOT = Path(__file__).parents[3]
TENSORS = {
    "W": torch.arange(12, dtype=torch.float32).reshape(3, 4).T,
    "step": torch.tensor(7.0),
    "mask": torch.tensor([True, False, True]),
    "codes": torch.tensor([[-1], [5]], dtype=torch.int8),
    "picture": torch.tensor([0, 255], dtype=torch.uint8),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "double": torch.tensor([[0.1]], dtype=torch.float64),
    "silent": torch.tensor([2**40]),
    "none": torch.zeros(0, 3),
}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = TENSORS) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_the_library_reads_what_is_written_here(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert write_tensors(path, TENSORS) == sha256_of_file(path)
    assert_same(load_file(path))
    write_sealed(path, TENSORS, {"state": "é"})
    assert_same(load_file(path))
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["state"] == "é"
    found, metadata = read_sealed(path)
    assert_same(found)
    assert metadata["state"] == "é"
    first = path.read_bytes()
    write_sealed(path, TENSORS, {"state": "é"})
    assert path.read_bytes() == first


def test_views_without_a_stride_to_count_by_are_written_as_their_values(tmp_path: Path) -> None:
    number, rows = torch.tensor(0.5), torch.arange(6.0).view(2, 3)
    views = {"one": number.expand(1), "many": number.expand(2, 3), "turned": rows.T, "part": rows[:, 1:]}
    write_tensors(tmp_path / "a.safetensors", views)
    assert_same(load_file(tmp_path / "a.safetensors"), views)


def test_a_file_without_a_checksum_is_read_if_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, path, metadata={"step": "3"})
    found, metadata = read_sealed(path)
    assert_same(found)
    assert metadata == {"step": "3"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"old.safetensors is damaged: "):
        read_sealed(path)


def test_no_flipped_bit_and_no_cut_is_missed(tmp_path: Path) -> None:
    """Bits of every byte: refused, or (in white space and in the checksum's own name) the same tensors and metadata."""
    path, tensors = tmp_path / "a.safetensors", {name: TENSORS[name] for name in ("W", "silent")}
    write_sealed(path, tensors, {"state": "{}"})
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    for bit in range(0, 8 * len(content), 3):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        try:
            found, metadata = read_sealed(path)
        except ValueError:
            continue
        assert 8 <= bit // 8 < begin, "a bit of the length or the data was missed"
        assert_same(found, tensors)
        assert metadata["state"] == "{}"
    for length in range(0, len(content), 5):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"is truncated|is damaged|was altered"):
            read_sealed(path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from interp.files.tensor_files import write_sealed, write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
path, tensors = Path(sys.argv[1]), {"a": torch.ones(20_000)}
for write in (lambda: write_tensors(path, tensors), lambda: write_sealed(path, tensors, {})):
    try:
        write()
    except OSError as error:
        print(error.errno, error)
"""


def test_a_full_disk_is_a_sentence_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS)
    before = path.read_bytes()
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{errno.EFBIG} ")
        assert f"no room on the disk for {path} (File too large): what was complete before stays; make room" in line
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
