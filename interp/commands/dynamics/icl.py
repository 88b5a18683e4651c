"""``interp icl``: when a small network begins to learn from its context, and what in it changes first."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from interp.commands.options import OutFile, OutFolder
from interp.in_context.setting import TrainConfig
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

if TYPE_CHECKING:
    from interp.in_context import Run

app = App(
    name="icl",
    help="Learning in context against learning in weights: train a small network, see what changes first.",
    help_epilogue=examples(
        "interp icl train --out runs/icl",
        "interp icl train --out runs/weights --novel 0 --steps 3000",
        "interp icl runs/icl --html icl.html",
    ),
)


@app.default
def report(folder: Path, /, *, html: OutFile | None = None) -> None:
    """Show a training, finished or not: accuracies, attention, and the order in which they change.

    Parameters
    ----------
    folder
        What interp icl train was told as --out.
    html
        Page to write.
    """
    from interp.in_context import load_run

    answer(_show(load_run(folder), html))


@app.command
def train(
    *, out: OutFolder = Path("runs/icl"), config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig()
) -> None:
    """Train a network of two attention layers on sequences of items and labels (arXiv 2312.03002), and show it.

    Parameters
    ----------
    out
        Folder of checkpoints and report.html; killed and started again, it continues there.
    """
    from interp.in_context import train as run_training

    say_plan(
        f"{config.steps:,} steps of {config.batch} sequences of {2 * config.pairs + 1} tokens, measured on"
        f" {4 * config.sequences:,} sequences at {len(config.schedule)} checkpoints"
    )
    answer(_show(run_training(config, out), out / "report.html"))


def _show(run: "Run", html: Path | None) -> dict[str, Any]:
    """Print a run, write its page, and return what a script gets."""
    from rich.console import Console

    from interp.in_context.report import page_of, print_run

    console = Console(highlight=False)
    found = run.change_points() if len(run.steps) > _FEWEST else None
    print_run(console, run, found)
    if html:
        console.print(f"Report: {page_of(run, found).write(html)}")
    return {"steps": run.steps, "last": {name: run.curve(name)[-1] for name in run.rows}, "changes": found}


_FEWEST = 8
"""Checkpoints below which nothing is said of changes."""
