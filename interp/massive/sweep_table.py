"""What a sweep has found so far: one JSON line a checkpoint, and a table that distrusts names.

A published revision does not always hold the weights of its step: 86 of the 154 of Pythia-2.8b serve those of the end
(EleutherAI/pythia issue 205). So every line carries fingerprints of all weights and of each block, and the table flags
steps that share them.
"""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from interp.files.outside import parse_json, reading, record, typed
from interp.files.seals import SEAL, is_broken, sealed
from interp.files.writing import sync_folder, told_if_full
from interp.massive.stats import LayerStats
from interp.trajectory.fitting import Trajectory, fit_all

Quantity = Literal["ratio", "mean_of_ratios", "top1", "median"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One checkpoint."""

    model: str
    step: int
    revision: str
    identity: str
    """Of its files: a commit of the hub, or a checksum."""
    weights: str
    """:func:`interp.models.fingerprint.weights_fingerprint`."""
    blocks: tuple[str, ...]
    """The same of each block."""
    data: str
    """Fingerprint of the tokens."""
    dtype: str
    code: int
    """Version of what is measured."""
    sink_rate: float
    """Gu et al.'s metric at the first position."""
    stats: LayerStats


@dataclass(frozen=True, kw_only=True)
class _Missing:
    model: str
    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A checkpoint, and what its fingerprints say about it."""

    measured: Measured
    identical_to: tuple[int, ...]
    """Other steps with the very same weights."""
    shares_blocks_with: tuple[int, ...]
    """Steps with which it shares some blocks but not all; a block that never changes (frozen) does not count."""
    suspect: bool
    """Left out of fits: see :meth:`SweepTable.rows`."""

    @property
    def step(self) -> int:
        """Training step that the revision's name claims."""
        return self.measured.step


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """Checkpoints by step, each once."""

    model: str
    measured: tuple[Measured, ...]
    missing: dict[int, str]
    """Step -> why it could not be measured."""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """With flags. Of several steps with the same weights all are suspect but one: the last step, which is what
        everyone calls the model, if it is among them; else, where they follow each other without another step between
        (a warm-up that has not moved the weights yet, as steps 0 and 1 of Pythia), the first; else none is exempt.
        Steps that share only some blocks are all suspect, since nothing tells which of them is right.
        """
        order = {each.step: i for i, each in enumerate(self.measured)}
        same = _groups((each.weights, each.step) for each in self.measured)
        twins = {step: tuple(sorted(set(steps) - {step})) for steps in same for step in steps}
        exempt = {step for step in map(lambda steps: self._right_one(steps, order), same) if step is not None}
        partial = self._partial_twins(twins)
        return tuple(
            Row(
                measured=each,
                identical_to=twins.get(each.step, ()),
                shares_blocks_with=partial.get(each.step, ()),
                suspect=each.step in partial or (each.step in twins and each.step not in exempt),
            )
            for each in self.measured
        )

    def series(
        self, quantity: Quantity = "ratio", *, suspect: bool = False
    ) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, "layers steps"]]:
        """Steps, and the quantity of every layer at them; without suspect checkpoints unless asked for."""
        rows = [row for row in self.rows if suspect or not row.suspect]
        values = [[estimate.value for estimate in getattr(row.measured.stats, quantity)] for row in rows]
        return np.array([row.step for row in rows], dtype=np.float64), np.array(values, dtype=np.float64).T

    def fits(self, quantity: Quantity = "ratio", *, suspect: bool = False, **options: Any) -> list[Trajectory]:
        """:func:`interp.trajectory.fit` for every layer; ``options`` are those of ``fit_all``."""
        return fit_all(*self.series(quantity, suspect=suspect), **options)

    def _right_one(self, steps: Sequence[int], order: dict[int, int]) -> int | None:
        places = sorted(order[step] for step in steps)
        if places[-1] == len(self.measured) - 1:
            return self.measured[-1].step
        together = places == list(range(places[0], places[-1] + 1))
        return self.measured[places[0]].step if together else None

    def _partial_twins(self, twins: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        if not self.measured:
            return {}
        found: dict[int, set[int]] = defaultdict(set)
        for layer in range(len(self.measured[0].blocks)):
            groups = _groups((each.blocks[layer], each.step) for each in self.measured)
            for steps in groups:
                if len(steps) == len(self.measured):  # frozen
                    continue
                for step in steps:
                    found[step] |= set(steps) - {step, *twins.get(step, ())}
        return {step: tuple(sorted(others)) for step, others in found.items() if others}


def _groups(pairs: Any) -> list[tuple[int, ...]]:
    """Steps that share a fingerprint."""
    steps: dict[str, list[int]] = defaultdict(list)
    for fingerprint, step in pairs:
        steps[fingerprint].append(step)
    return [tuple(each) for each in steps.values() if len(each) > 1]


class Results:
    """The file of a sweep; appended to line by line, each with a checksum, and on the disk before the next begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.measured: list[Measured] = []
        self._missing: dict[tuple[str, int], str] = {}
        for number, line in enumerate(self._whole_lines(), start=1):
            with reading(f"line {number} of {path}", "is damaged", fix="Delete that line"):
                self._take(parse_json(line, "it"))

    def add(self, measured: Measured) -> None:
        """Append a checkpoint."""
        plain = asdict(measured) | {"stats": _plain(measured.stats)}
        self._append({"kind": "measured"} | plain)

    def add_missing(self, model: str, step: int, reason: str) -> None:
        """Append a checkpoint that could not be had; it is tried again next time."""
        if self._missing.get((model, step)) != reason:
            self._append({"kind": "missing", "model": model, "step": step, "reason": reason})

    def find(self, **key: Any) -> Measured | None:
        """The latest line with these fields."""
        fits = (each for each in reversed(self.measured) if all(getattr(each, k) == v for k, v in key.items()))
        return next(fits, None)

    def table(self, *, steps: Sequence[int], **key: Any) -> SweepTable:
        """The latest line of each step among those with these fields (model, data, dtype, code)."""
        latest = {each.step: each for each in self.measured if all(getattr(each, k) == v for k, v in key.items())}
        missing = {
            step: reason
            for (model, step), reason in self._missing.items()
            if model == key["model"] and step in steps and step not in latest
        }
        return SweepTable(
            model=key["model"],
            measured=tuple(latest[step] for step in sorted(latest) if step in steps),
            missing=missing,
        )

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
            stats = _stats(fields.pop("stats"))
            self.measured.append(record(Measured, fields, stats=stats))
        else:
            raise ValueError(f"kind {kind!r}")


def at_other_step(measured: Measured, **fields: Any) -> Measured:
    """The same measurement under another name: equal weights give equal figures."""
    return replace(measured, **fields)


def _plain(stats: LayerStats) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in vars(stats).items()}


def _stats(plain: dict[str, Any]) -> LayerStats:
    tensors = {}
    for name in ("values", "positions", "dims", "tokens", "medians", "mads"):
        if name == "mads" and plain.get(name) is None:  # sweeps of before had none
            continue
        tensors[name] = torch.tensor(plain[name])
        if tensors[name].dtype != (torch.float32 if name in ("values", "medians", "mads") else torch.int64):
            raise ValueError(f"{name} holds other entries than it should")
    stats = LayerStats(sites=typed(plain["sites"], tuple[str, ...], "sites"), **tensors)
    shape = stats.values.shape
    same = all(tensors[name].shape == shape for name in ("positions", "dims", "tokens"))
    per_row = all(tensors[name].shape == shape[:2] for name in ("medians", "mads") if name in tensors)
    if not same or len(shape) != 3 or not per_row or len(stats.sites) != shape[0]:
        raise ValueError("its statistics are of different shapes")
    return stats
