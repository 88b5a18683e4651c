"""Several processes started by torchrun that share one job: who does what, waiting for each other, and bad news.

They exchange no tensors, so they need no gloo or nccl group and no memory for one, and it is the same on CPUs and
GPUs: a key-value store, which torchrun brings, is enough. Bad news travels while others wait, so none waits for ever.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch.distributed as dist

_FAILED = "failed"
_POLL_SECONDS = 0.05
_LINGER_SECONDS = 5


@dataclass
class Processes:
    """This process among ``size`` of one job."""

    rank: int = 0
    size: int = 1
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
            ValueError: one of them failed instead; the message is its own.
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
            raise ValueError(f"{self._name} lost the others: {error}") from error

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            if reason := self.failed_elsewhere():
                raise ValueError(reason)
            time.sleep(_POLL_SECONDS)

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
        """After a failure: the process that may hold the store stays until the others have read it, or for seconds."""
        if self._store is None or not self.leads:
            return
        deadline = time.monotonic() + _LINGER_SECONDS
        others = [f"read-{rank}" for rank in range(1, self.size)]
        with suppress(dist.DistError):
            while not self._store.check(others) and time.monotonic() < deadline:
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
                    self._store.set(_FAILED, f"{self._name} failed: {error}")
            raise


@cache
def current() -> Processes:
    """The processes that torchrun started; this one alone where it was started otherwise."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        return Processes()
    store, rank, size = next(dist.rendezvous("env://"))
    return Processes(rank, size, dist.PrefixStore("deepfield", store))


def default_device() -> str | None:
    """One GPU a process where several were started; None, for the usual choice, otherwise."""
    import torch

    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
