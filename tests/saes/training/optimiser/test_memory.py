"""Freed blocks are used again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from saes.training.optimiser.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(1 << 24).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
for _ in range(4):  # small blocks between large ones must be settled first
    faults()
print(first, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_a_block_is_faulted_in_once() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert after < before / 20
