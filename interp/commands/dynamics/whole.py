"""``interp dynamics``: everything that applies, over the checkpoints of a training run, in one report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from interp.commands.options import OutFile, OutFolder, RowOptions
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan


@dataclass(frozen=True, kw_only=True)
class SweepRows(RowOptions):
    """Few and short rows, since every checkpoint reads them."""

    sequences: int = 8
    """Rows to measure at every checkpoint."""
    context: int | None = 128
    """How many tokens a row has."""


app = App(
    name="dynamics",
    help="What happens while a model trains: all curves in order, around the phase in which induction appears.",
    help_epilogue=examples(
        "interp dynamics embedded --data my_text/ --out runs/dynamics",
        "interp dynamics pythia-70m --data my_text/ --steps paper --budget 2GB",
    ),
)
_SMALL = 20_000_000
"""Parameters up to which kernels, which keep a gradient of them for each output, are cheap enough to be in it."""


@app.default
def dynamics(
    model: str,
    /,
    *,
    data: str,
    steps: str = "all",
    leave_out: str | None = None,
    kernels: bool | None = None,
    out: OutFolder = Path("runs/dynamics"),
    html: OutFile | None = None,
    budget: str | None = None,
    rows: Annotated[SweepRows, Parameter(name="*")] = SweepRows(),
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
) -> None:
    """Monitors, massive activations, sinks, induction, copying, sparsity, gains, codes and kernels at every checkpoint;
    when each changed, and which came first.

    Each checkpoint is loaded once, and what reads the same rows shares their forward passes. Killed and started again,
    it goes on where it was. What a model does not have is left out with the reason.

    Parameters
    ----------
    model
        A model with checkpoints: embedded, a folder with step{N} subfolders, or a model of the hub (pythia-70m).
    data
        Text or token ids, as interp cache takes them; the same rows at every checkpoint.
    steps
        Checkpoints: all, paper, log or a list such as 0,512,143000.
    leave_out
        Groups that are not measured, of sparsity, gains, codes and kernels, with commas between them.
    kernels
        Tangent kernels too; by default of models with 20 million parameters or fewer.
    out
        Folder for the results.
    html
        Page to write; by default report.html in --out.
    budget
        Disk that downloaded checkpoints may take, such as 5GB; with room for two, the next is fetched ahead.
    dtype
        Of the weights.
    device
        By default a GPU where there is one.
    """
    from rich.console import Console
    from rich.table import Table

    from interp.checkpoints import choose_steps, open_source, sweep
    from interp.commands.dynamics.one_or_all import bytes_of, whole_rows_of
    from interp.dynamics import dynamics_of, measurements
    from interp.dynamics.page import COLUMNS, build_page
    from interp.dynamics.page import rows as table_rows
    from interp.files.scratch import scratch_folder
    from interp.kernels import reference_of
    from interp.models.loading import load_model
    from interp.tokens.sequences import training_rows

    groups = [] if leave_out is None else [name.strip() for name in leave_out.split(",")]
    measurements(leave_out=groups)
    console = Console(highlight=False)
    source = open_source(model)
    chosen = [step for step in choose_steps(steps, source.checkpoints) if step in source.checkpoints]
    if not chosen:
        raise ValueError(
            f"{source.name} has none of the steps {steps}; it has {', '.join(map(str, source.checkpoints))}"
        )
    tokens = whole_rows_of(*training_rows(source, data, **vars(rows)))
    say_plan(
        f"{len(chosen)} checkpoints of {source.name}, {len(tokens)} rows of {tokens.shape[1]} tokens and 16 rows of"
        f" repeated ones at each, into {out}"
    )
    reference, why = None, "left out by --leave-out or --no-kernels"
    if kernels is not False and "kernels" not in groups:
        size = _parameters(source.config_folder())
        why = f"a gradient of {size:,} parameters for each output: ask for it with --kernels, or use interp kernel"
        if kernels or size <= _SMALL:
            try:
                with scratch_folder() as scratch:
                    folder = source.fetch(source.checkpoints[chosen[0]], scratch / "reference")
                    reference = reference_of(load_model(folder, dtype=dtype, device=device))
            except ValueError as error:
                why = str(error)
    run = sweep(
        source,
        tokens,
        measurements(leave_out=groups, reference=reference),
        out,
        steps=steps,
        dtype=dtype,
        device=device,
        budget=bytes_of(budget),
    )
    found = dynamics_of(run.curves)
    found.left_out.update({} if reference is not None else {"kernels": why})
    found.left_out.update({name: "left out by --leave-out" for name in groups})
    for sentence in found.answer():
        console.print(sentence, markup=False)
    shown = ("curve", "half-way between steps", "before induction", "in the phase", "R²")
    table = Table(*shown, show_edge=False)
    for row in table_rows(found):
        table.add_row(*(row[COLUMNS.index(name)] for name in shown))
    console.print(table)
    for name, reason in found.left_out.items():
        console.print(f"Left out: {name}, {reason}", markup=False)
    if found.missing:
        console.print(f"Missing: {', '.join(map(str, sorted(found.missing)))}")
    answer(found.to_json() | {"results": out / "results.jsonl", "done": run.done})
    page = build_page(found, run.curves, data=data).write(html or out / "report.html")
    console.print(f"{', '.join(f'{count} {what}' for what, count in run.done.items())}. Report: {page}")


def _parameters(folder: Path) -> int:
    """About how many a model has, from its configuration alone: matrices of blocks, embedding and unembedding."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    width = int(config.hidden_size)
    return 12 * int(config.num_hidden_layers) * width**2 + 2 * int(config.vocab_size) * width
