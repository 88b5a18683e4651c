"""Curves of all measurements in the order in which they changed, around the phase in which induction appears."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from interp.checkpoints.curves import Curves, Quantity
from interp.dynamics.changes import Change, change_of, probability_before, share_within, when
from interp.dynamics.parts import CURVES, LEFT_OUT, Curve
from interp.trajectory.fitting import Trajectory, fit

_FEWEST = 3
_FEWEST_TO_FIT = 6
_APPEARS = 0.1
"""Attention that a head must gain before it counts as an induction head."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One curve of the figure, as it came out."""

    curve: Curve
    """Which curve of the figure it is."""
    part: str
    """Block or head that it is of; empty where there is one alone."""
    steps: Float[np.ndarray, " n"]
    """Steps that have a value, without suspect ones."""
    values: Float[np.ndarray, " n"]
    """The value at each step."""
    errors: Float[np.ndarray, " n"]
    """Its standard error; NaN where there is none."""
    samples: int
    """Samples behind every value."""
    change: Change
    """When and how far it changed."""
    fit: Trajectory | None
    """The emergence curve through the values, turned upside down where they fall; None of fewer than six points."""

    @property
    def name(self) -> str:
        """Title and part."""
        if not self.part:
            return self.curve.title
        return f"{self.curve.title}, {'head' if '.' in self.part else 'block'} {self.part}"


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """All curves of a training run, by the step at which half of their change is done."""

    model: str
    """Name of the model that was trained."""
    curves: tuple[Measured, ...]
    """Those that changed beyond noise, the first to change first."""
    still: tuple[Measured, ...]
    """Those that did not."""
    phase: tuple[float, float] | None
    """Checkpoints between which a tenth and nine tenths of induction appear; None where no head gains a tenth."""
    induction: Measured | None
    """The curve of the head with most induction at the end; None where patterns cannot be read."""
    left_out: dict[str, str]
    """Measurement or quantity -> why there is none."""
    missing: dict[int, str]
    """Step -> why it could not be measured."""
    suspect: tuple[int, ...]
    """Steps whose weights are those of another step; they are left out."""

    def place(self, each: Measured) -> Literal["before", "with", "after"] | None:
        """Where a curve's half-way point is to the phase: before it, in it as far as checkpoints tell, or after it."""
        if self.phase is None:
            return None
        low, high = each.change.between
        begin, end = self.phase
        return "before" if high <= begin else "after" if low >= end else "with"

    def share_in_phase(self, each: Measured) -> float | None:
        """Share of the whole change that falls into the phase; None where a checkpoint at its ends has no value."""
        if self.phase is None or not set(self.phase) <= set(each.steps.tolist()):
            return None
        return share_within(each.change, each.steps, *self.phase)

    def answer(self) -> tuple[str, ...]:
        """What happened, in sentences: the phase of induction first."""
        change = None if self.induction is None else self.induction.change
        if self.induction is None or change is None:
            said = ["Whether induction appears is not known: no head's attention could be read."]
        elif self.phase is None:
            said = [
                f"No head comes to look at what followed a token's earlier occurrence: the most is {change.extreme:.3f}"
                f" at step {change.at:,.0f}."
            ]
        else:
            said = [
                f"Induction appears between steps {self.phase[0]:,.0f} and {self.phase[1]:,.0f}: head"
                f" {self.induction.part} comes to give {change.extreme:.2f} of its attention to what followed a token's"
                f" earlier occurrence, from {change.first:.3f}."
            ]
        words = {
            "before": "Half-way before it",
            "with": "With it, as far as checkpoints tell",
            "after": "Half-way after it",
            None: "In order",
        }
        for place, opening in words.items():
            names = [self._said(each) for each in self.curves if self.place(each) == place]
            said += [f"{opening}: {'; '.join(names)}."] if names else []
        if self.still:
            said.append(f"Unchanged beyond noise: {'; '.join(each.name for each in self.still)}.")
        return tuple(said)

    def _said(self, each: Measured) -> str:
        share = self.share_in_phase(each)
        if self.place(each) == "with" and share is not None:
            return f"{each.name} ({share:.0%} of its change there)"
        return f"{each.name} ({when(each.change)})"

    def to_json(self) -> dict[str, Any]:
        """Plain data for scripts."""
        return {
            "model": self.model,
            "answer": self.answer(),
            "phase": self.phase,
            "left_out": self.left_out,
            "missing": self.missing,
            "curves": [
                {
                    "name": each.name,
                    "measurement": each.curve.measurement,
                    "quantity": each.curve.quantity,
                    "part": each.part,
                    "changed": each.change.clear,
                    "first": each.change.first,
                    "extreme": each.change.extreme,
                    "half_way": each.change.half,
                    "between": each.change.between,
                    "place": self.place(each),
                    "share_in_phase": self.share_in_phase(each),
                    "probability_before_induction": self.probability(each),
                    "class": None if each.fit is None else each.fit.layer_class,
                    "r2": None if each.fit is None else each.fit.r2,
                    "steps": each.steps.tolist(),
                    "values": each.values.tolist(),
                    "standard_errors": [None if np.isnan(error) else error for error in each.errors.tolist()],
                    "n": each.samples,
                }
                for each in (*self.curves, *self.still)
            ],
        }

    def probability(self, each: Measured) -> float | None:
        """That the curve is half-way before induction is; None of induction itself, and where there is none."""
        if self.induction is None or self.phase is None or each is self.induction:
            return None
        return probability_before(each.change, self.induction.change)


def dynamics_of(curves: Mapping[str, Curves]) -> Dynamics:
    """Order the curves of :func:`interp.checkpoints.sweep` over :func:`interp.dynamics.measurements`.

    Of each quantity one part is followed: the head or block that is largest at the last checkpoint, or the block of the
    induction head, chosen by the last checkpoint alone.

    Raises:
        ValueError: fewer than three checkpoints with weights of their own.

    Example:
        >>> import tempfile, interp
        >>> from interp.dynamics import dynamics_of, measurements
        >>> from interp.tokens.sequences import text_rows
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> tokens, _ = text_rows(model, text, sequences=2, context=32)
        >>> what = measurements(leave_out=["sparsity", "gains", "codes"], sequences=2, half=20)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     run = interp.checkpoints.sweep("embedded", tokens, what, out, steps="0,2896,4096,5792")
        >>> dynamics_of(run.curves).phase
        (2896.0, 4096.0)
    """
    first = next(iter(curves.values()))
    suspect = tuple(p.step for p, said in zip(first.points, first.flags, strict=True) if said.suspect)
    if len(first.points) - len(suspect) < _FEWEST:
        raise ValueError(
            f"{len(first.points) - len(suspect)} checkpoints of {first.model} have weights of their own; an order needs"
            f" {_FEWEST}, better 15: give more --steps"
        )
    left_out = _reasons(curves)
    found: list[Measured] = []
    block: str | None = None
    for number, curve in enumerate(CURVES):
        if curve.measurement not in curves:
            continue
        each = _measured(curves[curve.measurement], curve, block, number)
        if each is None:
            left_out.setdefault(curve.measurement, f"{curve.title} has no values")
            continue
        found.append(each)
        if curve.quantity == "induction":
            block = each.part.partition(".")[0]
    induction = next((each for each in found if each.curve.quantity == "induction"), None)
    appears = induction is not None and induction.change.clear and induction.change.rises
    gained = 0.0 if induction is None else induction.change.extreme - induction.change.first
    phase = (induction.change.begin, induction.change.end) if induction and appears and gained >= _APPEARS else None
    return Dynamics(
        model=first.model,
        curves=tuple(sorted((each for each in found if each.change.clear), key=lambda each: each.change.half)),
        still=tuple(each for each in found if not each.change.clear),
        phase=phase,
        induction=induction,
        left_out=left_out,
        missing=first.missing,
        suspect=suspect,
    )


def _measured(curves: Curves, curve: Curve, block: str | None, number: int) -> Measured | None:
    kept = [
        point
        for point, said in zip(curves.points, curves.flags, strict=True)
        if not said.suspect and curve.quantity in point.quantities
    ]
    if len(kept) < _FEWEST:
        return None
    part = _part(kept[-1].quantities[curve.quantity], curve.which, block)
    found = [(float(point.step), *_value(point.quantities[curve.quantity], part)) for point in kept]
    t, y, e = np.array([each for each in found if each[1] is not None], dtype=np.float64).reshape(-1, 3).T
    if len(t) < _FEWEST:
        return None
    change = change_of(t, y, e, seed=number)
    labels = kept[-1].quantities[curve.quantity].labels
    return Measured(
        curve=curve,
        part=part if len(labels) > 1 else "",
        steps=t,
        values=y,
        errors=e,
        samples=kept[-1].quantities[curve.quantity].n,
        change=change,
        fit=fit(t, y if change.rises else -y) if len(t) >= _FEWEST_TO_FIT and change.clear else None,
    )


def _value(its: Quantity, part: str) -> tuple[float | None, float | None]:
    """Value and standard error of a part; None where it has none."""
    if part not in its.labels:
        return None, None
    at = its.labels.index(part)
    return its.values[at], its.standard_errors[at]


def _part(its: Quantity, which: str, block: str | None) -> str:
    labels = its.labels
    if which == "last":
        return labels[-1]
    if which == "block" and block in labels:
        return str(block)
    if which == "all":
        return labels[0]
    return labels[max(range(len(labels)), key=lambda i: _or_least(its.values[i]))]


def _or_least(value: float | None) -> float:
    return -np.inf if value is None else value


def _reasons(curves: Mapping[str, Curves]) -> dict[str, str]:
    """Of every measurement what its lines say that it did not measure, and at how many checkpoints."""
    found: dict[str, str] = {}
    for name, each in curves.items():
        said: dict[str, int] = {}
        for point in each.points:
            for reason in point.quantities[LEFT_OUT].labels if LEFT_OUT in point.quantities else ():
                said[reason] = said.get(reason, 0) + 1
        for reason, count in said.items():
            where = "" if count == len(each.points) else f" (at {count} of {len(each.points)} checkpoints)"
            found[name] = "; ".join(filter(None, (found.get(name), f"{reason}{where}")))
    return found
