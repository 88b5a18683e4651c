"""Whatever a file from outside holds, its loader returns or says, naming it, what is wrong: never a traceback."""

import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from tests.hostile_files import Kind, damaged, kinds

MUTANTS = 2_000
_SECONDS = 120
"""For one file that takes milliseconds: a loader that hangs is told from a machine that is busy."""


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """End what hangs, by name (where the platform has alarms)."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} was not read within {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, ring) if hasattr(signal, "SIGALRM") else None
    try:
        if before is not None:
            signal.alarm(_SECONDS)
        yield
    finally:
        if before is not None:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_a_damaged_file_is_refused_in_words_or_read(tmp_path: Path) -> None:
    found, failures, outcomes = kinds(tmp_path / "shared"), [], Counter[tuple[str, str]]()
    for index, (name, kind) in enumerate(found.items()):
        share = MUTANTS // len(found) + (index < MUTANTS % len(found))
        whole = tmp_path / f"whole{index}"
        whole.mkdir()
        kind.make(whole)
        kind.load(whole)
        for seed in range(share):
            where = f"{name}, mutant {seed}"
            with bounded(where):
                fault = _read_mutant(kind, whole, tmp_path / "mutant", random.Random(f"{name} {seed}"))
            outcomes[name, "refused" if fault is None else "read" if not fault else "failed"] += 1
            if fault:
                failures.append(f"{where}: {fault}")
    assert sum(outcomes.values()) == MUTANTS
    assert failures == []
    for name in found:
        assert outcomes[name, "refused"] > 0 or name in ("txt", "bin"), f"no mutant of {name} was refused"


def test_json_that_is_nested_too_deeply_is_named_by_every_reader(tmp_path: Path) -> None:
    refused = 0
    for index, (name, kind) in enumerate(kinds(tmp_path / "shared").items()):
        whole = tmp_path / f"whole{index}"
        whole.mkdir()
        kind.make(whole)
        for file in sorted(whole.rglob("*.json*")):
            folder = tmp_path / f"deep{index}"
            shutil.copytree(whole, folder)
            (folder / file.relative_to(whole)).write_bytes(b"[" * 100_000)
            fault = _fault(kind, folder, folder / file.relative_to(whole))
            assert not fault, f"{name}: {fault}"
            refused += fault is None
            shutil.rmtree(folder)
    assert refused >= 14


def _read_mutant(kind: Kind, whole: Path, folder: Path, rng: random.Random) -> str | None:
    """None where it is refused as it should be, empty where it is read, else what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    file = rng.choice(files)
    file.write_bytes(damaged(file.read_bytes(), file.name, rng))
    return _fault(kind, folder, file)


def _fault(kind: Kind, folder: Path, file: Path) -> str | None:
    """What is wrong with how a folder is read of which ``file`` is damaged; see :func:`_read_mutant`."""
    try:
        kind.load(folder)
    except ValueError as error:
        names = {file.name, *(parent.name for parent in file.parents if parent.is_relative_to(folder))}
        return None if any(name in str(error) for name in names) else f"{file.name} is not named: {error}"
    except Exception as error:
        return f"{file.name}: {type(error).__name__}: {error}"
    return ""
