"""``interp kernel``: when a model's features start to move in its training."""

from cyclopts import App

from interp.commands.dynamics.one_or_all import Options, measure
from interp.terminal.help_text import examples

app = App(
    name="kernel",
    help="Lazy or rich: tangent kernel, weights and linearised loss against an early checkpoint.",
    help_epilogue=examples(
        "interp kernel embedded --data my_text/ --steps log --out runs/kernel",
    ),
)


@app.default
def kernel(
    model: str, /, *, options: Options, reference: int | None = None, positions: int = 64, projection: int | None = None
) -> None:
    """Distance of the tangent kernel and of the weights from those of an early checkpoint, and what stays linear.

    Parameters
    ----------
    model
        A model with checkpoints: embedded, a folder with step{N} subfolders, or a model of the hub (pythia-70m).
    reference
        Step of the checkpoint to compare with; by default the first.
    positions
        Outputs: log-probabilities of next tokens, spread evenly over the rows.
    projection
        Dimensions that gradients are sketched to, where they take too much memory: 2048, for an error of 2 %.
    """
    from interp.checkpoints import open_source
    from interp.files.scratch import scratch_folder
    from interp.kernels import measurement, reference_of
    from interp.models.loading import load_model

    source = open_source(model)
    step = next(iter(source.checkpoints)) if reference is None else reference
    if step not in source.checkpoints:
        raise ValueError(f"--reference is {step}; {source.name} has {', '.join(map(str, source.checkpoints))}")
    with scratch_folder() as scratch:
        folder = source.fetch(source.checkpoints[step], scratch / "reference")
        first = reference_of(load_model(folder, dtype=options.dtype, device=options.device))
    measure(
        model,
        f"Tangent kernel against step {step}",
        [measurement(first, positions=positions, projection=projection)],
        options,
    )
