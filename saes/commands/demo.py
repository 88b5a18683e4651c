"""``interp demo``: the main job on the embedded model, without a network."""

from pathlib import Path

from cyclopts import App

from interp.commands.options import OutFolder
from interp.terminal.answers import answer
from interp.terminal.help_text import examples

app = App(
    name="demo",
    help="Cache, train, evaluate and report on the embedded model: about two minutes on two cores.",
    help_epilogue=examples(
        "interp demo --out runs/demo",
    ),
)


@app.default
def demo(*, out: OutFolder = Path("runs/demo")) -> None:
    """Run the demo; killed and started again, it continues.

    Parameters
    ----------
    out
        Folder for activations, SAEs and the report.
    """
    from rich.console import Console

    from saes.demo.demo import run_demo

    answer({"report": run_demo(out, console=Console())})
