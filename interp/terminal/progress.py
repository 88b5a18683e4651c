"""How far a piece of work has come: a bar on a terminal, else a plain line every few seconds.

Work that ends within a second shows nothing. A log file gets whole lines without control characters, so that it can be
followed and searched; pieces of work inside each other share one display.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from interp.terminal.mode import mode

EVERY_SECONDS = 10.0
"""From one plain line to the next."""
FIRST_SECONDS = 5.0
"""Before the first plain line."""
_BAR_SECONDS = 1.0
_T = TypeVar("_T")


class Advance:
    """How far one piece of work is; call it with how much was done since, and what to show beside it."""

    def __init__(self, what: str, total: int | None, *, done: int, unit: str, display: "_Display | None") -> None:
        self.what, self.total, self.done, self.unit, self.note = what, total, done, unit, ""
        self._display, self._begun, self._at_begin = display, time.monotonic(), done

    def __call__(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        if self._display is not None:
            self._display.refresh(self)

    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    def left(self) -> float | None:
        """Seconds that are left at this pace; None while that cannot be told."""
        done = self.done - self._at_begin
        if self.total is None or done <= 0:
            return None
        return max(0.0, (self.total - self.done) * self.seconds() / done)

    def __str__(self) -> str:
        """One plain line."""
        parts = [f"{self.what}: {self.done:,.0f}"]
        if self.total:
            parts = [f"{self.what}: {self.done:,.0f} of {self.total:,.0f} ({self.done / self.total:.0%})"]
        unit = f" {self.unit}" if self.unit else ""
        left = self.left()
        ends = f", {_clock(left)} left" if left is not None else ""
        return f"{parts[0]}{unit}, {_clock(self.seconds())} so far{ends}{f'  {self.note}' if self.note else ''}"


class _Display:
    """Where progress goes."""

    def refresh(self, work: Advance) -> None:
        """Show ``work`` as it stands."""

    def end(self, work: Advance) -> None:
        """It is done, or given up."""


class _Lines(_Display):
    """Plain lines on stderr."""

    def __init__(self) -> None:
        self._next = time.monotonic() + FIRST_SECONDS

    def refresh(self, work: Advance) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_SECONDS
            sys.stderr.write(f"{work}\n")
            sys.stderr.flush()


class _Bars(_Display):
    """Bars of rich on stderr, one a piece of work, all in one display."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[int, Any] = {}

    def refresh(self, work: Advance) -> None:
        if id(work) not in self._tasks:
            if work.seconds() < _BAR_SECONDS:
                return
            if self._bars is None:
                from rich.console import Console
                from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

                self._bars = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.percentage:>3.0f}%"),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[note]}", markup=False),
                    console=Console(stderr=True),
                )
                self._bars.start()
            self._tasks[id(work)] = self._bars.add_task(work.what, total=work.total, note="")
        self._bars.update(self._tasks[id(work)], completed=work.done, note=work.note)

    def end(self, work: Advance) -> None:
        if self._tasks.pop(id(work), None) is not None and not self._tasks:
            self._bars.stop()
            self._bars = None


_display: _Display | None = None


@contextmanager
def progress(
    what: str, total: int | None = None, *, done: int = 0, unit: str = "", show: bool = False
) -> Iterator[Advance]:
    """Yields what is called as the work goes on.

    Shown within commands, unless these are to be quiet; elsewhere only with ``show``.

    Args:
        what: The work, in a word or two.
        total: How much there is, None where that is not known.
        done: How much was done before.
        unit: Of what is counted, in the plural.
        show: Show it outside of commands too.

    Example:
        >>> from interp.terminal.progress import progress
        >>> with progress("measure", 3, unit="rows") as advance:
        ...     advance(2)
        ...     advance.done
        2
    """
    global _display
    outer = _display
    if not mode().quiet and (mode().command or show) and outer is None:
        _display = _Bars() if sys.stderr.isatty() else _Lines()
    work = Advance(what, total, done=done, unit=unit, display=_display)
    try:
        yield work
    finally:
        if _display is not None:
            _display.end(work)
        _display = outer


def counted(items: Iterable[_T], what: str, total: int | None = None, *, unit: str = "") -> Iterator[_T]:
    """``items``, each counted once the work on it is done; see ``progress``.

    Example:
        >>> from interp.terminal.progress import counted
        >>> [number**2 for number in counted([1, 2], "square")]
        [1, 4]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(what, total, unit=unit) as advance:
        for item in items:
            yield item
            advance()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
