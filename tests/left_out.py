"""What a run leaves out, told in its last line: slow tests unless asked for, and those that cannot run here."""

from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from benchmarks.peers import known_peers, made_python

CANNOT_RUN: dict[str, tuple[Callable[[], bool], str]] = {
    "peers": (
        lambda: not any(map(made_python, known_peers())),
        "compare with other libraries, in environments of their own (make test-peers)",
    ),
    "gpu": (lambda: not torch.cuda.is_available(), "need a GPU"),
    "browser": (lambda: find_spec("playwright") is None, "click in a browser (pip install 'deepfield[browser]')"),
}
SLOW = "slow", "are slow (make test-slow)"
COUNTS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    why = {mark: reason for mark, (cannot_run, reason) in CANNOT_RUN.items() if cannot_run()}
    if SLOW[0] not in config.getoption("markexpr"):
        why |= dict([SLOW])
    kept, left_out = [], []
    for item in items:
        mark = next((mark for mark in why if item.get_closest_marker(mark)), None)
        (kept if mark is None else left_out).append(item)
        if mark is not None:
            config.stash[COUNTS][why[mark]] += 1
    items[:] = kept
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist tells the process that prints
        session.config.workeroutput["left_out"] = dict(session.config.stash[COUNTS])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects all tests, so that one worker's counts are those of the run."""
    node.config.stash[COUNTS] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_unconfigure(config: pytest.Config) -> None:
    printer = config.pluginmanager.get_plugin("terminalreporter")
    if printer is not None and (counts := config.stash.get(COUNTS, Counter())):
        printer.write_line("Tests left out: " + "; ".join(f"{n} that {why}" for why, n in counts.items()) + ".")
