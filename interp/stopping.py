"""Ctrl-C and SIGTERM wait until a step is done, so that a run that is stopped can be saved as it stands."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT or SIGTERM only makes the yielded function return True; it takes effect at the end.

    A second one takes effect at once. Threads other than the main one may not handle signals: there nothing changes.

    Raises:
        KeyboardInterrupt: at the end, where a signal came whose own handler did not raise.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    handlers = {number: old for number, old in handlers.items() if old not in (None, signal.SIG_IGN)}

    def give_back() -> None:
        for number, old in handlers.items():
            signal.signal(number, old)

    def hold(number: int, _frame: object) -> None:
        came.append(number)
        give_back()

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield lambda: bool(came)
    finally:
        give_back()
    if came:
        signal.raise_signal(came[0])
        raise KeyboardInterrupt
