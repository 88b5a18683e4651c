"""Activation sparsity at every checkpoint, at one CETT for all (Sparsing Law, arXiv 2411.02335)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from interp.checkpoints.results_file import Provenance, ResultsFile
from interp.checkpoints.schedules import choose_steps
from interp.checkpoints.sources import Source, open_source
from interp.checkpoints.sweeping import Task, tokens_fingerprint, visit
from interp.files.outside import record
from interp.sparsity.activation_sparsity import Sparsity, ppl_sparsity, sparsity_at

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@dataclass(frozen=True, kw_only=True)
class SparsityPoint(Provenance):
    """One checkpoint, as a line of the file."""

    asked: str
    """``p=…`` of the checkpoint that the CETT was searched at, ``cett=…`` of the others."""
    found: Sparsity
    """Sparsity and figures beside it at this step."""


class _Points(ResultsFile[SparsityPoint]):
    def read(self, fields: dict[str, Any]) -> SparsityPoint:
        return record(SparsityPoint, fields)

    def plain(self, line: SparsityPoint) -> dict[str, Any]:
        return asdict(line)


def sparsity_over_training(
    model: str | Source,
    tokens: Int[Tensor, "sequences position"],
    out: str | Path,
    *,
    steps: str = "all",
    p: float = 1.0,
    dtype: str = "float32",
    device: str | None = None,
    budget: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> dict[int, Sparsity]:
    """Step -> sparsity, at the CETT that raises the last checkpoint's perplexity by ``p`` percent (the paper averages
    over its last five).

    ``out`` holds ``results.jsonl``, from which a run that is started again goes on, and downloaded checkpoints while
    they are needed; the other options are those of :func:`interp.checkpoints.sweep`. Steps that cannot be had are left
    out, but for the last.

    Raises ValueError for fewer than two rows, where none of the steps exists or the last cannot be loaded, and what
    ``ppl_sparsity`` raises.

    Example:
        >>> import interp
        >>> from interp.tokens.sequences import text_rows
        >>> model = interp.load_model("embedded")
        >>> tokens, _ = text_rows(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", sequences=2, context=32)
        >>> found = interp.sparsity.sparsity_over_training("embedded", tokens, "sparsity", steps="0,5792")
        >>> found[0].cett == found[5792].cett, found[0].share.value < found[5792].share.value
        (True, True)
    """
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} rows of tokens; the errors are over rows, so give 2 or more (--sequences)")
    source = open_source(model) if isinstance(model, str) else model
    chosen = [step for step in choose_steps(steps, source.checkpoints) if step in source.checkpoints]
    if not chosen:
        raise ValueError(
            f"{source.name} has none of the steps {steps}; it has {', '.join(map(str, source.checkpoints))}"
        )

    def measured(which: list[int], asked: str, find: Callable[[Any], Sparsity]) -> dict[int, Sparsity]:
        def measure(loaded: Any, provenance: dict[str, Any]) -> SparsityPoint:
            return SparsityPoint(**provenance, found=find(loaded))

        task = Task(
            key={"code": CODE, "asked": asked}, measure=measure, say=lambda line: f"{line.found.share} inactive"
        )
        run = visit(
            source,
            Path(out),
            _Points,
            [task],
            data=tokens_fingerprint(tokens),
            steps=",".join(map(str, which)),
            dtype=dtype,
            device=device,
            budget=budget,
            tell=tell,
        )
        if chosen[-1] in run.missing[0]:
            raise ValueError(
                f"step {chosen[-1]} of {source.name}, whose CETT the others need, is missing:"
                f" {run.missing[0][chosen[-1]]}; name other steps"
            )
        return {line.step: line.found for line in run.lines[0]}

    last = measured(chosen[-1:], f"p={p!r}", partial(ppl_sparsity, tokens=tokens, p=p))
    cett = last[chosen[-1]].cett
    if chosen[:-1]:
        last |= measured(chosen[:-1], f"cett={cett!r}", partial(sparsity_at, tokens=tokens, cett=cett))
    return dict(sorted(last.items()))
