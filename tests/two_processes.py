"""Two processes as torchrun starts them, but without torchrun, which would end one when the other fails."""

import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.patience import PATIENCE


def run_two(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """Exit statuses and what each wrote to stderr."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, **shared, "RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in started]
    return [process.returncode for process in started], errors
