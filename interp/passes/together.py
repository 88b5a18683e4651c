"""Several measurements of one model in one forward pass: each says what it asks for, and equal rows run once.

A measurement is written as a generator: it yields an :class:`Ask` for every batch, gets the reduced tensors, and
returns what it found. ``alone`` runs one; ``together`` runs several, and joins those that ask for the same rows.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.terminal.progress import progress

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ask:
    """What a measurement wants of one forward pass."""

    rows: Int[Tensor, "batch position"]
    """Token ids of the batch, without padding."""
    sites: tuple[Site, ...]
    """Where it reads in the model."""
    reduce: Callable[[Site, Tensor], Tensor]
    """Called inside the pass; what it returns is kept in the tensor's place."""


Steps = Generator[Ask, dict[Site, Tensor], T]


def alone(model: Any, steps: Steps[T]) -> T:
    """What one measurement finds."""
    found, _ = together(model, [steps])
    result = found[0]
    if isinstance(result, ValueError):
        raise result
    return result


def counted_steps(steps: Steps[T], what: str, batches: int) -> Steps[T]:
    """The same, with its batches counted on the terminal."""
    with progress(what, batches, unit="batches") as advance:
        found: dict[Site, Tensor] | None = None
        while True:
            try:
                found = yield steps.send(found)  # type: ignore[arg-type]
            except StopIteration as end:
                result: T = end.value
                return result
            advance(1)


def together(model: Any, measurements: Sequence[Steps[T]]) -> tuple[list[T | ValueError], int]:
    """What each finds, or the ValueError that it ended with, while the others go on; and how many passes were run.

    Measurements that go over the same rows in the same batches share every pass.
    """
    results: dict[int, T | ValueError] = {}
    waiting: dict[int, Ask] = {}
    passes = 0

    def go_on(number: int, value: dict[Site, Tensor] | None) -> None:
        try:
            waiting[number] = measurements[number].send(value)  # type: ignore[arg-type]
        except StopIteration as end:
            results[number] = end.value
        except ValueError as error:
            results[number] = error

    for number in range(len(measurements)):
        go_on(number, None)
    while waiting:
        rows = next(iter(waiting.values())).rows
        joined = {n: ask for n, ask in waiting.items() if ask.rows is rows or torch.equal(ask.rows, rows)}
        kept: dict[int, dict[Site, Tensor]] = {number: {} for number in joined}

        def keep(site: Site, value: Tensor, joined: Any = joined, kept: Any = kept) -> Tensor:
            for number, ask in joined.items():
                if site in ask.sites:
                    kept[number][site] = ask.reduce(site, value)
            return value.new_zeros(0)

        for number in joined:
            del waiting[number]
        sites = list(dict.fromkeys(site for ask in joined.values() for site in ask.sites))
        capture(model, rows, sites, reduce={site: partial(keep, site) for site in sites})
        passes += 1
        for number, found in kept.items():
            go_on(number, found)
    return [results[number] for number in range(len(measurements))], passes
