"""``interp clamp``: what the loss would be if a part of a circuit were perfect, or gone."""

from cyclopts import App

from interp.commands.dynamics.one_or_all import Options, measure
from interp.terminal.help_text import examples

app = App(
    name="clamp",
    help="Loss with a head's attention held at a value: progress measures of induction.",
    help_epilogue=examples(
        "interp clamp embedded --data repeated --spec induction:2.1:0.7 --steps all --out runs/clamp",
    ),
)


@app.default
def clamp(model: str, /, *, options: Options, spec: tuple[str, ...] = ()) -> None:
    """Loss on tokens that induction can predict, as it is and within clamps, and the induction strength of every head.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    spec
        Clamps that hold together, such as previous:0.2+induction:2.1:0.7 (strength 0.7); give it again for others.
        Names are ablate, previous, induction, no-previous and temperature, each with layer.head.
    """
    from interp.clamping import measurement

    measure(model, "Clamps", [measurement(spec)], options)
