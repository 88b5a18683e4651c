"""Makes one virtual environment per peer library, from `requirements/NAME.txt`.

Peers pin versions that cannot live beside ours (SAELens wants transformer-lens < 4), so each gets its own
interpreter under `.venvs/NAME`. torch is installed first (configure pip with a CPU index to avoid several GB of CUDA
packages) and then pinned: a peer that would replace it makes the installation fail instead.

    python benchmarks/peers.py saelens
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements"
ENVIRONMENTS = HERE / ".venvs"
_STAMP = "requirements.sha256"


def known_peers() -> list[str]:
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def made_python(name: str) -> Path | None:
    """The interpreter of the peer's environment, if that was made from its requirements as they are now."""
    if name not in known_peers():
        raise ValueError(f"no peer {name!r}; there is a requirements file for: {', '.join(known_peers())}")
    stamp = ENVIRONMENTS / name / _STAMP
    return _python(name) if stamp.exists() and stamp.read_text() == _digest(name) else None


def peer_python(name: str) -> Path:
    """The interpreter of the peer's environment, which is made when it is missing or its requirements changed."""
    if made := made_python(name):
        return made
    requirements, folder, python = REQUIREMENTS / f"{name}.txt", ENVIRONMENTS / name, _python(name)
    venv.create(folder, with_pip=True, clear=True)
    torch_line = next((line for line in requirements.read_text().splitlines() if line.startswith("torch==")), None)
    if torch_line is None:
        raise ValueError(f"{requirements} must pin torch (a line 'torch==...'), or pip may pull a CUDA build")
    _pip(python, "install", torch_line)
    constraint = folder / "constraint.txt"
    constraint.write_text(f"{torch_line}\n")
    _pip(python, "install", "--constraint", str(constraint), "--requirement", str(requirements))
    # Written last, so that an interrupted installation is made anew.
    (folder / _STAMP).write_text(_digest(name))
    return python


def _python(name: str) -> Path:
    return ENVIRONMENTS / name / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _digest(name: str) -> str:
    return hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    for peer in sys.argv[1:] or known_peers():
        print(f"{peer}: {peer_python(peer)}")
