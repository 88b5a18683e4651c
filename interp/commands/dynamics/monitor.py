"""``interp monitor``: what shows that training is about to become unstable."""

from cyclopts import App

from interp.commands.dynamics.one_or_all import Options, measure
from interp.terminal.help_text import examples

app = App(
    name="monitor",
    help="Attention logits, log Z, sizes of activations and gradients, now or over training.",
    help_epilogue=examples(
        "interp monitor pythia-70m --data my_text/ --steps paper --out runs/monitor",
    ),
)


@app.default
def monitor(model: str, /, *, options: Options, backward: bool = True) -> None:
    """Monitors of training instability (arXiv 2309.14322) of a model, or of its checkpoints.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    backward
        Gradients too, for which a model in float32 needs as much memory again as its weights.
    """
    from interp.monitors import measurement

    measure(model, "Instability monitors", [measurement(backward=backward)], options)
