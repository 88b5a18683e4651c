"""The file of a sweep: one JSON line a checkpoint, each with a checksum, and on the disk before the next begins.

A published revision does not always hold the weights of its step: 86 of the 154 of Pythia-2.8b serve those of the end
(EleutherAI/pythia issue 205). So every line carries fingerprints of all weights and of each block, and :func:`flags`
tells which steps share them.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from interp.files.outside import parse_json, reading, record
from interp.files.seals import SEAL, is_broken, sealed
from interp.files.writing import sync_folder, told_if_full


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Of which weights, on which tokens and by which version something was measured."""

    model: str
    """Name of the model that was trained."""
    step: int
    """Training steps taken at this checkpoint."""
    revision: str
    """The revision that was loaded, as its source fetches it."""
    identity: str
    """Of its files: a commit of the hub, or a checksum."""
    weights: str
    """Fingerprint of all weights, by :func:`interp.models.fingerprint.weights_fingerprint`."""
    blocks: tuple[str, ...]
    """The same of each block."""
    data: str
    """Fingerprint of the tokens."""
    dtype: str
    """Dtype in which the model ran, such as ``float32``."""
    code: int
    """Version of what is measured."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the fingerprints say about a checkpoint."""

    identical_to: tuple[int, ...]
    """Other steps with the very same weights."""
    shares_blocks_with: tuple[int, ...]
    """Steps with which it shares some blocks but not all; a block that never changes (frozen) does not count."""
    suspect: bool
    """Left out of fits: see :func:`flags`."""


def flags(lines: Sequence[Provenance]) -> tuple[Flags, ...]:
    """Flags of each of ``lines``, which are in the order of their steps.

    Of several steps with the same weights all are suspect but one: the last step, which is what everyone calls the
    model, if it is among them; else, where they follow each other without another step between (a warm-up that has not
    moved the weights yet, as steps 0 and 1 of Pythia), the first; else none is exempt. Steps that share only some
    blocks are all suspect, since nothing tells which of them is right.
    """
    same = _groups((each.weights, each.step) for each in lines)
    twins = {step: tuple(sorted(set(steps) - {step})) for steps in same for step in steps}
    exempt = {step for steps in same if (step := _right_one(steps, lines)) is not None}
    partial = _partial_twins(lines, twins)
    return tuple(
        Flags(
            identical_to=twins.get(each.step, ()),
            shares_blocks_with=partial.get(each.step, ()),
            suspect=each.step in partial or (each.step in twins and each.step not in exempt),
        )
        for each in lines
    )


def _right_one(steps: Sequence[int], lines: Sequence[Provenance]) -> int | None:
    order = {each.step: i for i, each in enumerate(lines)}
    places = sorted(order[step] for step in steps)
    if places[-1] == len(lines) - 1:
        return lines[-1].step
    together = places == list(range(places[0], places[-1] + 1))
    return lines[places[0]].step if together else None


def _partial_twins(lines: Sequence[Provenance], twins: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    if not lines:
        return {}
    found: dict[int, set[int]] = defaultdict(set)
    for layer in range(len(lines[0].blocks)):
        for steps in _groups((each.blocks[layer], each.step) for each in lines):
            if len(steps) == len(lines):  # frozen
                continue
            for step in steps:
                found[step] |= set(steps) - {step, *twins.get(step, ())}
    return {step: tuple(sorted(others)) for step, others in found.items() if others}


def _groups(pairs: Iterable[tuple[str, int]]) -> list[tuple[int, ...]]:
    """Steps that share a fingerprint."""
    steps: dict[str, list[int]] = defaultdict(list)
    for fingerprint, step in pairs:
        steps[fingerprint].append(step)
    return [tuple(each) for each in steps.values() if len(each) > 1]


@dataclass(frozen=True, kw_only=True)
class _Missing:
    model: str
    step: int
    reason: str


Line = TypeVar("Line", bound=Provenance)


class ResultsFile(Generic[Line]):
    """Lines of one kind; a subclass says how a line is read from its object (``read``) and made one (``plain``).

    Opening it raises ValueError, with the number of the line, where one is damaged; the beginning of a line that a
    killed run did not finish is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.measured: list[Line] = []
        self._missing: dict[tuple[str, int], str] = {}
        for number, line in enumerate(self._whole_lines(), start=1):
            with reading(f"line {number} of {path}", "is damaged", fix="Delete that line"):
                self._take(parse_json(line, "it"))

    def read(self, fields: dict[str, Any]) -> Line:
        """A line from its object."""
        raise NotImplementedError

    def plain(self, line: Line) -> dict[str, Any]:
        """A line as an object that JSON can hold."""
        raise NotImplementedError

    def add(self, line: Line) -> None:
        """Append a checkpoint."""
        self._append({"kind": "measured"} | self.plain(line))

    def add_missing(self, model: str, step: int, reason: str) -> None:
        """Append a checkpoint that could not be had; it is tried again next time."""
        if self._missing.get((model, step)) != reason:
            self._append({"kind": "missing", "model": model, "step": step, "reason": reason})

    def find(self, **key: Any) -> Line | None:
        """The latest line with these fields."""
        return next((each for each in reversed(self.measured) if _has(each, key)), None)

    def latest(self, *, steps: Sequence[int], **key: Any) -> tuple[tuple[Line, ...], dict[int, str]]:
        """The latest line of each step among those with these fields, and why the other steps are missing."""
        latest = {each.step: each for each in self.measured if _has(each, key)}
        missing = {
            step: reason
            for (model, step), reason in self._missing.items()
            if model == key["model"] and step in steps and step not in latest
        }
        return tuple(latest[step] for step in sorted(latest) if step in steps), missing

    def _whole_lines(self) -> list[bytes]:
        """Lines that were finished; of a killed run's last one the beginning is cut off."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("rb+") as file:
                file.truncate(len(whole))
        return whole.splitlines()

    def _append(self, line: dict[str, Any]) -> None:
        new = not self._path.exists()
        with told_if_full(self._path), self._path.open("ab") as file:
            file.write(json.dumps(sealed(line), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self._path.parent)
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if is_broken(line):
            raise ValueError("its checksum differs")
        fields = {name: value for name, value in line.items() if name != SEAL}
        kind = fields.pop("kind")
        if kind == "missing":
            missing = record(_Missing, fields)
            self._missing[missing.model, missing.step] = missing.reason
        elif kind == "measured":
            self.measured.append(self.read(fields))
        else:
            raise ValueError(f"kind {kind!r}")


def _has(line: Provenance, key: dict[str, Any]) -> bool:
    return all(getattr(line, name) == value for name, value in key.items())


def at_other_step(line: Line, **fields: Any) -> Line:
    """The same measurement under another name: equal weights give equal figures."""
    return replace(line, **fields)
