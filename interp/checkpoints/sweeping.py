"""Measure anything at every checkpoint of a training run: one on the disk, the next on its way.

Killed and started again it repeats nothing. What was measured is found by the weights' fingerprint, the tokens'
fingerprint, the dtype and the version of the measurement; equal weights under another name are not run again. Several
measurements share one load of each checkpoint.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from interp.checkpoints.results_file import Line, ResultsFile, at_other_step
from interp.checkpoints.schedules import choose_steps
from interp.checkpoints.sources import Source, discard
from interp.checkpoints.visiting import in_turn
from interp.files.folder_lock import alone_in
from interp.models.fingerprint import weights_fingerprint
from interp.models.loading import load_model
from interp.terminal.progress import counted

RESULTS = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Line]):
    """What to do at each checkpoint, and how its lines are known again."""

    key: dict[str, Any]
    """Fields that all its lines share, beside those of the checkpoint: the version ``code`` at least."""
    measure: Callable[[Any, dict[str, Any]], Line]
    """From the loaded model and the fields of its :class:`~interp.checkpoints.results_file.Provenance`, the line."""
    say: Callable[[Line], str]
    """A few words about a line."""


@dataclass(frozen=True, kw_only=True)
class Visited(Generic[Line]):
    """What there is after a run: of every task, the lines by step and the steps without one."""

    lines: tuple[tuple[Line, ...], ...]
    """For each task its lines, ordered by step."""
    missing: tuple[dict[int, str], ...]
    """For each task, step -> why there is no line."""
    done: Counter[str] = field(default_factory=Counter)
    """Checkpoints by what was done: ``measured``, ``same weights``, ``there already``, ``missing``."""


def visit(
    source: Source,
    out: Path,
    results: Callable[[Path], ResultsFile[Line]],
    tasks: Sequence[Task[Line]],
    *,
    data: str,
    steps: str = "all",
    dtype: str = "float32",
    device: str | None = None,
    budget: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Visited[Line]:
    """Do ``tasks`` at the checkpoints that ``steps`` names, and append a line for each to ``out/results.jsonl``.

    Args:
        source: the training run.
        out: folder of the results, and of checkpoints while they are needed.
        results: opens the file.
        tasks: each checkpoint is loaded once for all that lack a line.
        data: fingerprint of what is measured on (:func:`tokens_fingerprint`).
        steps: as in :func:`interp.checkpoints.choose_steps`.
        dtype: of the weights.
        device: by default a GPU where there is one.
        budget: bytes that downloaded checkpoints may take; the next is fetched ahead only where two fit.
        tell: called with a line about each checkpoint.

    Raises:
        ValueError: no checkpoints; a checkpoint beyond the budget; a folder that another run is writing to; and what
            the tasks raise. A revision that does not exist or cannot be loaded is recorded, not fatal.
    """
    chosen = choose_steps(steps, {*source.expected, *source.checkpoints})
    keys = [{"model": source.name, "data": data, "dtype": dtype, **task.key} for task in tasks]
    done: Counter[str] = Counter()
    with alone_in(out):
        discard(out / "checkpoints")  # of a killed run
        file = results(out / RESULTS)

        def missing(step: int, reason: str) -> None:
            file.add_missing(source.name, step, reason)
            done["missing"] += 1
            tell(f"step {step}: missing, {reason}")

        def lacks(step: int, key: dict[str, Any]) -> bool:
            return file.find(step=step, identity=source.identity(source.checkpoints[step]), **key) is None

        todo = []
        for step in chosen:
            if step not in source.checkpoints:
                missing(step, "no such revision")
            elif any(lacks(step, key) for key in keys):
                todo.append(source.checkpoints[step])
            else:
                done["there already"] += 1
        visits = in_turn(source, todo, out / "checkpoints", budget, missing)
        for checkpoint, folder in counted(visits, "visit checkpoints", len(todo), unit="checkpoints"):
            try:
                loaded = load_model(folder, dtype=dtype, device=device)
            except ValueError as error:
                missing(checkpoint.step, str(error))
                continue
            names: dict[str, Any] = {
                "step": checkpoint.step,
                "revision": checkpoint.revision,
                "identity": source.identity(checkpoint),
            }
            weights, blocks = weights_fingerprint(loaded), tuple(map(weights_fingerprint, loaded.blocks))
            how = "same weights"
            for task, key in zip(tasks, keys, strict=True):
                if not lacks(checkpoint.step, key):
                    continue
                known = file.find(weights=weights, **{name: value for name, value in key.items() if name != "model"})
                if known:
                    line = at_other_step(known, model=source.name, **names)
                    tell(f"step {line.step}: the same weights as step {known.step} of {known.model}, not run again")
                else:
                    line, how = task.measure(loaded, key | names | {"weights": weights, "blocks": blocks}), "measured"
                    tell(f"step {line.step}: {task.say(line)}")
                file.add(line)
            done[how] += 1
    found = [file.latest(steps=chosen, **key) for key in keys]
    return Visited(lines=tuple(lines for lines, _ in found), missing=tuple(gone for _, gone in found), done=done)


def tokens_fingerprint(tokens: Tensor) -> str:
    """``"sha256:…"`` of the shape and the ids, whatever integers and device they are held by."""
    content = tokens.cpu().to(torch.int64).contiguous().numpy().tobytes()
    return f"sha256:{hashlib.sha256(str(tuple(tokens.shape)).encode() + content).hexdigest()}"
