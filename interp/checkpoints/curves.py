"""Curves over training: any figures of a model, measured at every checkpoint in one sweep.

A :class:`Measurement` says what is measured; :func:`sweep` measures several of them with one load of each checkpoint
and returns one :class:`Curves` for each.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from interp.checkpoints.results_file import Flags, Provenance, ResultsFile, flags
from interp.checkpoints.sources import Source, open_source
from interp.checkpoints.sweeping import Task, tokens_fingerprint, visit
from interp.files.outside import record
from interp.metrics import Estimate
from interp.trajectory.fitting import Trajectory, fit_all


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One figure of a model for each of some parts of it: its blocks, its heads, or the model as a whole.

    Example:
        >>> from interp.checkpoints import Quantity
        >>> Quantity(labels=("loss",), values=(3.2,), standard_errors=(0.1,), n=16).values
        (3.2,)
    """

    labels: tuple[str, ...]
    """Of the parts, such as ``("0", "1")`` for blocks or ``("2.1",)`` for a head."""
    values: tuple[float | None, ...]
    """One a part; None where it is not defined or not finite."""
    standard_errors: tuple[float | None, ...]
    """One a part; None where a figure is exact (of weights) or a single sample."""
    n: int
    """Samples behind every value; 1 for a figure of the weights alone."""


def quantity(values: Mapping[str, Estimate | float] | Sequence[Estimate | float]) -> Quantity:
    """Estimates, or exact numbers, of parts that are named by the keys, or counted from 0.

    Example:
        >>> from interp.checkpoints import quantity
        >>> quantity({"q": 1.0, "k": 2.0}).labels
        ('q', 'k')
    """
    named = values if isinstance(values, Mapping) else {str(i): value for i, value in enumerate(values)}
    estimates = [v if isinstance(v, Estimate) else Estimate(float(v), math.nan, 1) for v in named.values()]
    return Quantity(
        labels=tuple(named),
        values=tuple(_finite(each.value) for each in estimates),
        standard_errors=tuple(_finite(each.standard_error) for each in estimates),
        n=max((each.n for each in estimates), default=0),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Something to measure at every checkpoint.

    Example:
        >>> from interp.checkpoints import Measurement, quantity
        >>> def size(model, tokens):
        ...     return {"size": quantity({"W_U": float(model.W_U.norm())})}
        >>> norm = Measurement(name="norm", code=1, run=size, titles={"size": "Norm of the unembedding"})
        >>> norm.settings
        {}
    """

    name: str
    """The name that lines of the file and pages carry."""
    code: int
    """Raised when the same weights and tokens would give other figures than before."""
    run: Callable[[Any, Int[Tensor, "sequences position"]], Mapping[str, Quantity]]
    """From a loaded model and the tokens, quantities by name."""
    titles: Mapping[str, str]
    """Quantity -> what it is, with its unit; those without one are kept in the file and not shown."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options that change the figures, as JSON can hold them: other options are other lines."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Provenance):
    """One checkpoint, as a line of the file."""

    measurement: str
    """Name of the :class:`Measurement` that was run."""
    settings: str
    """Options of the measurement, as JSON text with sorted keys."""
    quantities: dict[str, Quantity]
    """What was measured, by the quantity's name."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One measurement over the training of a model.

    Example:
        >>> import torch
        >>> from interp.checkpoints import Measurement, quantity, sweep
        >>> def norms(model, tokens):
        ...     return {"norm": quantity({"W_E": model.W_E.norm().item(), "W_U": model.W_U.norm().item()})}
        >>> what = Measurement(name="norms", code=1, run=norms, titles={"norm": "Norm of a matrix"})
        >>> tokens = torch.zeros(1, 2, dtype=torch.long)
        >>> curves = sweep("embedded", tokens, [what], "norms", steps="0,5792").curves["norms"]
        >>> curves.names, curves.labels("norm")
        (('norm',), ('W_E', 'W_U'))
        >>> steps, values, errors, n = curves.series("norm")
        >>> steps.tolist(), values.round(1).tolist()
        ([0.0, 5792.0], [[40.1, 55.3], [40.1, 59.7]])
    """

    model: str
    """Name of the model that was trained."""
    measurement: Measurement
    """What was measured at every checkpoint."""
    points: tuple[CurvePoint, ...]
    """By step, each once."""
    missing: dict[int, str]
    """Step -> why it could not be measured."""

    @cached_property
    def flags(self) -> tuple[Flags, ...]:
        """What the fingerprints say of each point (:func:`interp.checkpoints.results_file.flags`)."""
        return flags(self.points)

    @property
    def names(self) -> tuple[str, ...]:
        """Quantities that every point has and that have a title."""
        return tuple(n for n in self.measurement.titles if self.points and all(n in p.quantities for p in self.points))

    def labels(self, name: str) -> tuple[str, ...]:
        """Parts that a quantity has a value of."""
        self._check(name)
        return self.points[0].quantities[name].labels

    def series(
        self, name: str, *, suspect: bool = False
    ) -> tuple[
        Float[np.ndarray, " steps"], Float[np.ndarray, "labels steps"], Float[np.ndarray, "labels steps"], list[int]
    ]:
        """Steps, values and standard errors (NaN where there is none), and n of each step; without suspect checkpoints
        unless asked for.

        Raises ValueError for a quantity that is not there, or whose parts differ between checkpoints.
        """
        labels = self.labels(name)
        kept = [p for p, said in zip(self.points, self.flags, strict=True) if suspect or not said.suspect]
        found = [point.quantities[name] for point in kept]
        if any(each.labels != labels for each in found):
            raise ValueError(f"{name!r} has other parts at some checkpoints: they are of different architectures")
        values = np.array([each.values for each in found], dtype=np.float64).reshape(len(found), len(labels))
        errors = np.array([each.standard_errors for each in found], dtype=np.float64).reshape(len(found), len(labels))
        return np.array([p.step for p in kept], dtype=np.float64), values.T, errors.T, [each.n for each in found]

    def fits(self, name: str, *, suspect: bool = False, **options: Any) -> list[Trajectory]:
        """:func:`interp.trajectory.fit` for every part; ``options`` are those of ``fit_all``."""
        steps, values, _, _ = self.series(name, suspect=suspect)
        return fit_all(steps, values, **options)

    def _check(self, name: str) -> None:
        if not self.points:
            raise ValueError(f"no checkpoint of {self.model} was measured; missing are {sorted(self.missing)}")
        if name not in self.points[0].quantities:
            raise ValueError(f"{name!r} was not measured; there are {', '.join(self.points[0].quantities)}")


@dataclass(frozen=True, kw_only=True)
class CurvesRun:
    """Curves by the name of their measurement, and what this run did for them.

    Example:
        >>> import torch
        >>> from interp.checkpoints import Measurement, quantity, sweep
        >>> def norm(model, tokens):
        ...     return {"norm": quantity([model.W_E.norm().item()])}
        >>> what = Measurement(name="embedding", code=1, run=norm, titles={"norm": "Norm of the embedding"})
        >>> for _ in range(2):  # nothing is measured twice
        ...     run = sweep("embedded", torch.zeros(1, 2, dtype=torch.long), [what], "norms", steps="0,5792")
        ...     print(dict(run.done))
        {'measured': 2}
        {'there already': 2}
    """

    curves: dict[str, Curves]
    """Name of a measurement -> its curves over all checkpoints."""
    done: Counter[str]
    """Checkpoints by ``measured`` (forward passes), ``same weights`` (taken from an earlier line), ``there already``,
    ``missing``."""


class _Points(ResultsFile[CurvePoint]):
    def read(self, fields: dict[str, Any]) -> CurvePoint:
        return record(CurvePoint, fields)

    def plain(self, line: CurvePoint) -> dict[str, Any]:
        return asdict(line)


def sweep(
    model: str | Source,
    tokens: Int[Tensor, "sequences position"],
    measurements: Sequence[Measurement],
    out: str | Path,
    *,
    steps: str = "all",
    dtype: str = "float32",
    device: str | None = None,
    budget: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> CurvesRun:
    """Measure the checkpoints that ``steps`` names (:func:`interp.checkpoints.choose_steps`) into ``out``.

    Args:
        model: ``embedded``, a folder with ``step{N}`` subfolders, a model of the hub, or a source of one's own.
        tokens: the same rows at every checkpoint.
        measurements: each checkpoint is loaded once for all of them.
        out: folder of ``results.jsonl``, and of checkpoints while they are needed.
        steps: ``all``, ``paper``, ``log`` or a list.
        dtype: of the weights.
        device: by default a GPU where there is one.
        budget: bytes that downloaded checkpoints may take; the next is fetched ahead only where two fit.
        tell: called with a line about each checkpoint.

    Raises:
        ValueError: as :func:`interp.checkpoints.sweeping.visit`; no measurement, or two of one name.

    Example:
        >>> import tempfile, torch
        >>> from interp.checkpoints import Measurement, quantity, sweep
        >>> norm = Measurement(
        ...     name="embedding",
        ...     code=1,
        ...     run=lambda model, tokens: {"norm": quantity([float(model.W_E.norm())])},
        ...     titles={"norm": "Norm of the embedding"},
        ... )
        >>> with tempfile.TemporaryDirectory() as out:
        ...     run = sweep("embedded", torch.zeros(1, 2, dtype=torch.long), [norm], out, steps="0,5792")
        >>> run.curves["embedding"].series("norm")[1].shape
        (1, 2)
    """
    names = [each.name for each in measurements]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"measurements are {names}; give at least one, and each name once")
    source = open_source(model) if isinstance(model, str) else model
    settings = {each.name: json.dumps(dict(each.settings), sort_keys=True) for each in measurements}

    def measure(what: Measurement, loaded: Any, provenance: dict[str, Any]) -> CurvePoint:
        return CurvePoint(**provenance, quantities=dict(what.run(loaded, tokens)))

    tasks = [
        Task(
            key={"code": each.code, "measurement": each.name, "settings": settings[each.name]},
            measure=partial(measure, each),
            say=partial(_say, each),
        )
        for each in measurements
    ]
    found = visit(
        source,
        Path(out),
        _Points,
        tasks,
        data=tokens_fingerprint(tokens),
        steps=steps,
        dtype=dtype,
        device=device,
        budget=budget,
        tell=tell,
    )
    curves = {
        each.name: Curves(model=source.name, measurement=each, points=points, missing=missing)
        for each, points, missing in zip(measurements, found.lines, found.missing, strict=True)
    }
    return CurvesRun(curves=curves, done=found.done)


def _say(what: Measurement, point: CurvePoint) -> str:
    shown = []
    for name in what.titles:
        values = [v for v in point.quantities[name].values if v is not None] if name in point.quantities else []
        if values:
            shown.append(f"{name.replace('_', ' ')} {max(values):.4g}")
    return f"{what.name}: largest " + ", ".join(shown[:4])
