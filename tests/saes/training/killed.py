"""A training run in a process of its own, slowed down and killed in the middle."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]
SLOWLY = """
import sys, time
from pathlib import Path
import torch
from saes.training import loop
torch.set_num_threads(1)
step = loop.train_step
def slow(*arguments, **options):
    time.sleep(0.05)
    step(*arguments, **options)
loop.train_step = slow
"""


def start_slowly(training: str, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that runs ``training``, Python that finds the folder and the arguments in ``sys.argv[1:]``."""
    return subprocess.Popen([sys.executable, "-c", SLOWLY + training, str(folder), *arguments], cwd=ROOT)


def kill_in_the_middle(process: subprocess.Popen[bytes], folder: Path) -> None:
    """SIGKILL once 17 of 60 steps are logged."""
    log, deadline = folder / "log.jsonl", time.monotonic() + PATIENCE
    while not log.is_file() or len(log.read_text().splitlines()) < 17:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "cfg.json").exists()
