"""Processes that share a job: one that is killed is missed, one that is slow is waited for."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from interp import processes
from tests.two_processes import run_two

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys, time
from interp import processes
processes._BEAT_SECONDS, processes._SILENT_SECONDS = 0.1, 10
job = processes.current()
job.wait_for_all()
if job.rank == 1:
    time.sleep(12)  # slow, but alive
job.wait_for_all()
if job.rank == int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
try:
    job.wait_for_all()
except ValueError as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_is_missed_and_a_slow_one_is_not(killed: int) -> None:
    statuses, errors = run_two([sys.executable, "-c", KILLED, str(killed)], cwd=ROOT, environment=os.environ)
    assert statuses[killed] == -signal.SIGKILL
    assert statuses[1 - killed] == 0
    told = [line for line in errors[1 - killed].splitlines() if "ended without a word" in line]
    assert len(told) == 1
    assert told[0].startswith(f"process {1 - killed} of 2 lost process {killed}, which ended without a word")
    assert told[0].endswith("start the same command again on all of them, it continues")


def test_processes_that_do_not_meet_are_told_where_they_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that another job holds, for the process that would open it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in shared.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=rf"process 0 of 2 did not meet the others at 127.0.0.1:{port} \("):
            processes.current.__wrapped__()
