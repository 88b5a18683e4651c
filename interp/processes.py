"""Several processes started by torchrun that share one job: who does what, waiting for each other, and bad news.

They exchange no tensors, so they need no gloo or nccl group and no memory for one, and it is the same on CPUs and
GPUs: a key-value store, which torchrun brings, is enough. Bad news travels while others wait, and every process shows
signs of life, so none waits for ever, not even for one that was killed.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch.distributed as dist

_FAILED = "failed"
_POLL_SECONDS = 0.05
_LINGER_SECONDS = 60
_BEAT_SECONDS = 5
_SILENT_SECONDS = 300
"""Without a sign of life, after which a process is lost. A thread gives the signs, whatever the process computes."""


@dataclass
class Processes:
    """This process among ``size`` of one job."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many processes the job has."""
    _store: Any = None
    _barriers: int = field(default=0, init=False)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of ``count`` pieces of work are this process's."""
        return range(self.rank, count, self.size)

    def wait_for_all(self) -> None:
        """Return when every process has come here.

        Raises:
            ValueError: one of them failed instead, and the message is its own, or shows no sign of life.
        """
        if self._store is None:
            return
        self._barriers += 1
        name = f"barrier-{self._barriers}"
        try:
            self._store.add(name, 1)
            self._until(lambda: self._store.add(name, 0) >= self.size)
            # Outside torchrun the first process holds the store, so it leaves last.
            if self.leads:
                self._until(lambda: self._store.check([f"{name}-left-{rank}" for rank in range(1, self.size)]))
            else:
                self._store.set(f"{name}-left-{self.rank}", "")
        except dist.DistError as error:
            raise ValueError(self.lost("process 0")) from error

    def _until(self, done: Callable[[], bool]) -> None:
        signs = _SignsOfLife(self._store, set(range(self.size)) - {self.rank})
        while not done():
            if reason := self.failed_elsewhere():
                raise ValueError(reason)
            if silent := signs.missing_for(_SILENT_SECONDS):
                raise ValueError(self.lost(f"process {min(silent)}"))
            time.sleep(_POLL_SECONDS)

    def lost(self, whom: str) -> str:
        """What to tell of a process that ended, or was cut off, without a word."""
        return (
            f"{self._name} lost {whom}, which ended without a word (was it killed, or its machine?): start the same"
            " command again on all of them, it continues"
        )

    def show_life(self) -> None:
        """Give signs of life from now on, until this process ends."""
        ended = threading.Event()

        def beat() -> None:
            with suppress(dist.DistError):  # the process that held the store is gone
                while not ended.wait(_BEAT_SECONDS):
                    self._store.add(f"beat-{self.rank}", 1)

        def stop() -> None:  # a thread inside the store must not meet the end of the interpreter
            ended.set()
            thread.join(_BEAT_SECONDS)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        atexit.register(stop)

    def failed_elsewhere(self) -> str | None:
        """What another process failed with, once it has told."""
        try:
            if self._store is None or not self._store.check([_FAILED]):
                return None
            reason = self._store.get(_FAILED).decode()
            self._store.set(f"read-{self.rank}", "")
        except dist.DistError:  # the process that held the store is gone
            return None
        return None if reason.startswith(self._name) else reason

    def linger(self) -> None:
        """After a failure: the process that may hold the store stays until the others that live have read it, or for a
        minute."""
        if self._store is None or not self.leads:
            return
        deadline, others = time.monotonic() + _LINGER_SECONDS, set(range(1, self.size))
        signs = _SignsOfLife(self._store, others)
        with suppress(dist.DistError):
            while time.monotonic() < deadline:
                unread = {rank for rank in others if not self._store.check([f"read-{rank}"])}
                if unread <= signs.missing_for(3 * _BEAT_SECONDS):
                    return
                time.sleep(_POLL_SECONDS)

    @property
    def _name(self) -> str:
        return f"process {self.rank} of {self.size}"

    def store(self, name: str) -> dist.Store:
        """A key-value store of all the processes, for one purpose."""
        return dist.PrefixStore(name, self._store)

    @contextmanager
    def telling_others(self) -> Iterator[None]:
        """An error inside the block also ends the others, where they wait for this process."""
        try:
            yield
        except BaseException as error:
            with suppress(dist.DistError):  # they may be gone already
                if self._store is not None and not self._store.check([_FAILED]):
                    self._store.set(_FAILED, f"{self._name} failed: {error or type(error).__name__}")
            raise


class _SignsOfLife:
    """When each of some processes has last shown life."""

    def __init__(self, store: Any, ranks: set[int]) -> None:
        self._store, self._looked = store, time.monotonic()
        self._last = dict.fromkeys(ranks, (-1, self._looked))

    def missing_for(self, seconds: float) -> set[int]:
        """Those that have shown none for so long. The store is asked once a beat."""
        now = time.monotonic()
        if now - self._looked > _BEAT_SECONDS:
            self._looked = now
            for rank, (beats, _) in self._last.items():
                if (more := self._store.add(f"beat-{rank}", 0)) != beats:
                    self._last[rank] = (more, now)
        return {rank for rank, (_, since) in self._last.items() if now - since > seconds}


@cache
def current() -> Processes:
    """The processes that torchrun started; this one alone where it was started otherwise.

    Raises ValueError where they do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        return Processes()
    try:
        store, rank, size = next(dist.rendezvous("env://"))
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        raise ValueError(
            f"process {os.environ.get('RANK')} of {size} did not meet the others at {address} ({error}): start all of"
            " them, with the same MASTER_ADDR and MASTER_PORT, which no other job may use"
        ) from error
    job = Processes(rank, size, dist.PrefixStore("deepfield", store))
    job.show_life()
    return job


def default_device() -> str | None:
    """One GPU a process where several were started; None, for the usual choice, otherwise."""
    import torch

    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
