"""How much is said here: nothing where the packages are imported, plans and progress within a command."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """Of this process."""

    command: bool = False
    """Whether a command of ours runs, for somebody who waits."""
    quiet: bool = False
    """Whether that somebody wants results and warnings alone."""


_mode = Mode()


def mode() -> Mode:
    """As it is now."""
    return _mode


@contextmanager
def in_command(*, quiet: bool = False) -> Iterator[None]:
    """Within, plans and progress are shown, unless ``quiet``."""
    global _mode
    before, _mode = _mode, Mode(command=True, quiet=quiet)
    try:
        yield
    finally:
        _mode = before


def say_plan(text: object) -> None:
    """What a command is about to do, on stdout; nothing outside of commands, or where they are to be quiet."""
    if _mode.command and not _mode.quiet:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
