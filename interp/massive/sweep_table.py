"""What a sweep has found so far, as a table that distrusts names: see :mod:`interp.checkpoints.results_file`."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from interp.checkpoints.results_file import Flags, Provenance, ResultsFile, flags
from interp.files.outside import record, typed
from interp.massive.stats import LayerStats
from interp.trajectory.fitting import Trajectory, fit_all

Quantity = Literal["ratio", "mean_of_ratios", "top1", "median"]

FEWEST_TO_FIT = 6
"""Checkpoints; a curve of fewer has as many parameters as points."""


@dataclass(frozen=True, kw_only=True)
class Measured(Provenance):
    """One checkpoint."""

    sink_rate: float
    """Gu et al.'s metric at the first position."""
    stats: LayerStats
    """What is left of the checkpoint's hidden states."""


@dataclass(frozen=True, kw_only=True)
class Row(Flags):
    """A checkpoint, and what its fingerprints say about it."""

    measured: Measured
    """The figures of the checkpoint."""

    @property
    def step(self) -> int:
        """Training step that the revision's name claims."""
        return self.measured.step


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """Checkpoints by step, each once.

    Example:
        >>> import interp, torch
        >>> tokens = torch.arange(1, 65).view(2, 32)
        >>> table = interp.massive.sweep("embedded", tokens, "massive", steps="0,5792").table
        >>> [(row.step, row.suspect) for row in table.rows]
        [(0, False), (5792, False)]
        >>> table.series("top1")[1].shape  # layers, steps
        (4, 2)
    """

    model: str
    """Name of the model whose checkpoints they are."""
    measured: tuple[Measured, ...]
    """Figures of each checkpoint, by step."""
    missing: dict[int, str]
    """Step -> why it could not be measured."""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """With the flags of :func:`interp.checkpoints.results_file.flags`."""
        found = zip(self.measured, flags(self.measured), strict=True)
        return tuple(Row(measured=each, **vars(said)) for each, said in found)

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


class Results(ResultsFile[Measured]):
    """The file of a sweep."""

    def read(self, fields: dict[str, Any]) -> Measured:
        """A line from its object."""
        stats = _stats(fields.pop("stats"))
        return record(Measured, fields, stats=stats)

    def plain(self, line: Measured) -> dict[str, Any]:
        """A line as an object that JSON can hold."""
        return asdict(line) | {"stats": _plain(line.stats)}


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
