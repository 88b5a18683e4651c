"""``interp codes``: which neurons are on, and how much that tells tokens apart."""

from cyclopts import App

from interp.commands.dynamics.one_or_all import Options, measure
from interp.terminal.help_text import examples

app = App(
    name="codes",
    help="Patterns of signs of a model's neurons: how many repeat, and what they tell apart.",
    help_epilogue=examples(
        "interp codes gpt2 --data my_text/ --html codes.html",
    ),
)


@app.default
def codes(model: str, /, *, options: Options) -> None:
    """Neural codes (arXiv 2101.05490) of a model's tokens by block, or over its checkpoints.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    """
    from interp.codes import measurement

    measure(model, "Neural codes", [measurement()], options)
