"""Measure massive activations at every checkpoint of a training run, by :mod:`interp.checkpoints.sweeping`: killed and
started again it repeats nothing, and equal weights under another name are not run again.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from interp.checkpoints.sources import Source, open_source
from interp.checkpoints.sweeping import RESULTS as RESULTS
from interp.checkpoints.sweeping import Task, tokens_fingerprint, visit
from interp.massive.attention import attention_sinks
from interp.massive.stats import layer_stats
from interp.massive.sweep_table import Measured, Results, SweepTable

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """The table, and what this run did for it: checkpoints by ``measured`` (forward passes), ``same weights`` (taken
    from an earlier line), ``there already``, ``missing``.

    Example:
        >>> import interp, torch
        >>> tokens = torch.arange(1, 65).view(2, 32)
        >>> for _ in range(2):  # nothing is measured twice
        ...     print(dict(interp.massive.sweep("embedded", tokens, "massive", steps="0,5792").done))
        {'measured': 2}
        {'there already': 2}
    """

    table: SweepTable
    """All checkpoints measured until now."""
    done: Counter[str]
    """How many checkpoints were treated in which way."""


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

    Example:
        >>> import interp, torch
        >>> tokens = torch.arange(1, 65).view(2, 32)
        >>> run = interp.massive.sweep("embedded", tokens, "massive", steps="0,5792")
        >>> steps, ratios = run.table.series("ratio")  # largest magnitude / median, of each layer
        >>> steps.tolist(), ratios.shape
        ([0.0, 5792.0], (4, 2))
        >>> ratios.max(0).round(1).tolist()
        [6.1, 10.7]
    """
    source = open_source(model) if isinstance(model, str) else model

    def measure(loaded: Any, provenance: dict[str, Any]) -> Measured:
        stats = layer_stats(loaded, tokens, batch=batch)
        return Measured(**provenance, sink_rate=attention_sinks(loaded, tokens).sink_rate().value, stats=stats)

    task = Task(
        key={"code": CODE},
        measure=measure,
        say=lambda line: f"ratio {max(each.value for each in line.stats.ratio):.1f} at its largest layer",
    )
    found = visit(
        source,
        Path(out),
        Results,
        [task],
        data=tokens_fingerprint(tokens),
        steps=steps,
        dtype=dtype,
        device=device,
        budget=budget,
        tell=tell,
    )
    return SweepRun(
        table=SweepTable(model=source.name, measured=found.lines[0], missing=found.missing[0]), done=found.done
    )
