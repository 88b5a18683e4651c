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


def known_peers() -> list[str]:
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def peer_python(name: str) -> Path:
    """The interpreter of the peer's environment, which is made when it is missing or its requirements changed."""
    if name not in known_peers():
        raise ValueError(f"no peer {name!r}; there is a requirements file for: {', '.join(known_peers())}")
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = ENVIRONMENTS / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    # The stamp is written last, so an interrupted installation is made anew.
    stamp = folder / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    venv.create(folder, with_pip=True, clear=True)
    torch_line = next((line for line in requirements.read_text().splitlines() if line.startswith("torch==")), None)
    if torch_line is None:
        raise ValueError(f"{requirements} must pin torch (a line 'torch==...'), or pip may pull a CUDA build")
    _pip(python, "install", torch_line)
    constraint = folder / "constraint.txt"
    constraint.write_text(f"{torch_line}\n")
    _pip(python, "install", "--constraint", str(constraint), "--requirement", str(requirements))
    stamp.write_text(digest)
    return python


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    for peer in sys.argv[1:] or known_peers():
        print(f"{peer}: {peer_python(peer)}")
