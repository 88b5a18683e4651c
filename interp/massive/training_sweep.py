"""Measure massive activations at every checkpoint of a training run: one on the disk, the next on its way.

Killed and started again it repeats nothing. What was measured is found by the weights' fingerprint, the tokens'
fingerprint, the dtype and :data:`CODE`; equal weights under another name are not run again.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.checkpoints.schedules import choose_steps
from interp.checkpoints.sources import Source, discard, open_source
from interp.checkpoints.visiting import in_turn
from interp.files.folder_lock import alone_in
from interp.massive.attention import attention_sinks
from interp.massive.stats import layer_stats
from interp.massive.sweep_table import Measured, Results, SweepTable, at_other_step
from interp.models.fingerprint import weights_fingerprint
from interp.models.loading import load_model

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""
RESULTS = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """The table, and what this run did for it: checkpoints by ``measured`` (forward passes), ``same weights`` (taken
    from an earlier line), ``there already``, ``missing``."""

    table: SweepTable
    done: Counter[str]


def sweep(
    model: str | Source,
    tokens: Int[Tensor, "sequences position"],
    out: str | Path,
    *,
    steps: str = "all",
    dtype: str = "float32",
    device: str | None = None,
    budget: int | None = None,
    batch: int = 1,
    tell: Callable[[str], None] = lambda _line: None,
) -> SweepRun:
    """Measure the checkpoints that ``steps`` names (:func:`interp.checkpoints.schedules.choose_steps`) into ``out``.

    Args:
        model: ``embedded``, a folder with ``step{N}`` subfolders, a model of the hub, or a source of one's own.
        tokens: the same rows at every checkpoint.
        out: folder of ``results.jsonl``, and of checkpoints while they are needed.
        steps: ``all``, ``paper``, ``log`` or a list.
        dtype: of the weights.
        device: by default a GPU where there is one.
        budget: bytes that downloaded checkpoints may take; the next is fetched ahead only where two fit.
        batch: sequences a forward pass.
        tell: called with a line about each checkpoint.

    Raises:
        ValueError: no checkpoints; a checkpoint beyond the budget; a folder that another run is writing to; and what
            ``layer_stats`` raises. A revision that does not exist or cannot be loaded is recorded, not fatal.
    """
    source = open_source(model) if isinstance(model, str) else model
    out = Path(out)
    chosen = choose_steps(steps, {*source.expected, *source.checkpoints})
    key: dict[str, Any] = {"model": source.name, "data": _fingerprint(tokens), "dtype": dtype, "code": CODE}
    done: Counter[str] = Counter()
    with alone_in(out):
        discard(out / "checkpoints")  # of a killed run
        results = Results(out / RESULTS)

        def missing(step: int, reason: str) -> None:
            results.add_missing(source.name, step, reason)
            done["missing"] += 1
            tell(f"step {step}: missing, {reason}")

        todo = []
        for step in chosen:
            if step not in source.checkpoints:
                missing(step, "no such revision")
            elif results.find(step=step, identity=source.identity(source.checkpoints[step]), **key):
                done["there already"] += 1
            else:
                todo.append(source.checkpoints[step])
        for checkpoint, folder in in_turn(source, todo, out / "checkpoints", budget, missing):
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
            weights = weights_fingerprint(loaded)
            known = results.find(weights=weights, **{name: key[name] for name in ("data", "dtype", "code")})
            if known:
                results.add(at_other_step(known, model=source.name, **names))
                done["same weights"] += 1
                tell(f"step {checkpoint.step}: the same weights as step {known.step} of {known.model}, not run again")
                continue
            stats = layer_stats(loaded, tokens, batch=batch)
            sinks = attention_sinks(loaded, tokens).sink_rate().value
            blocks = tuple(map(weights_fingerprint, loaded.blocks))
            results.add(Measured(**key, **names, weights=weights, blocks=blocks, sink_rate=sinks, stats=stats))
            done["measured"] += 1
            tell(f"step {checkpoint.step}: ratio {max(each.value for each in stats.ratio):.1f} at its largest layer")
    return SweepRun(table=results.table(steps=chosen, **key), done=done)


def _fingerprint(tokens: Tensor) -> str:
    content = tokens.cpu().to(torch.int64).contiguous().numpy().tobytes()
    return f"sha256:{hashlib.sha256(str(tuple(tokens.shape)).encode() + content).hexdigest()}"
