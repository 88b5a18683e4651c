"""``interp gains``: how much the matrices of blocks stretch what enters them."""

from cyclopts import App

from interp.commands.dynamics.one_or_all import Options, measure
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="gains",
    help="Top singular values, stable rank and measured gain of every matrix, now or over training.",
    help_epilogue=examples(
        "interp gains embedded --data my_text/ --steps log --out runs/gains",
        "interp gains pythia-14m pythia-31m pythia-70m --data my_text/",
    ),
)


@app.default
def gains(model: str, /, *widths: str, options: Options) -> None:
    """Gains of the matrices of a model's blocks, over checkpoints, or over models of several widths.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    widths
        More models of the same recipe: prints how each matrix's top singular value goes with the width.
    """
    from interp.gains import measurement

    if not widths:
        measure(model, "Gains", [measurement()], options)
        return
    if options.steps is not None or options.html is not None:
        raise ValueError("--steps and --html are for one model: leave them out, or name one model alone")
    _over_widths((model, *widths), options)


def _over_widths(models: tuple[str, ...], options: Options) -> None:
    from math import exp, log

    from rich.console import Console
    from rich.table import Table

    from interp.commands.dynamics.one_or_all import whole_rows
    from interp.gains import MATRICES, gains, width_exponent
    from interp.models.loading import load_model
    from interp.terminal.progress import counted

    console = Console(highlight=False)
    found, sizes = [], []
    say_plan(f"Gains of {len(models)} models, one after the other: {options.rows.sequences} rows of text each")
    for name in counted(models, "models"):
        loaded = load_model(name, dtype=options.dtype, device=options.device)
        found.append(gains(loaded, whole_rows(loaded, options)))
        sizes.append(int(loaded.cfg.d_model))
    table = Table("matrix", *(f"width {size}" for size in sizes), "sigma1 ~ width^", "gain ~ width^", show_edge=False)
    for matrix in MATRICES:
        rows = [[each for each in model if each.matrix == matrix] for model in found]
        if not all(rows):
            continue
        means = [exp(sum(log(each.sigma1) for each in row) / len(row)) for row in rows]
        real = [exp(sum(log(each.gain.value) for each in row) / len(row)) for row in rows]
        cells = []
        for values in (means, real):
            exponent = width_exponent(sizes, values)
            known = exponent.n > 2
            cells.append(f"{exponent.slope:.3f}" + (f" ± {exponent.standard_error:.2g}" if known else " (n = 2)"))
        table.add_row(matrix, *(f"{value:.3g}" for value in means), *cells)
    answer([{"model": name, "gains": each} for name, each in zip(models, found, strict=True)])
    console.print(table)
    console.print("Top singular values, geometric mean over blocks; an exponent of 0 is invariance.")
