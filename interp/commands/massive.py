"""``interp massive``: massive activations of a model, over its training, and what they are good for."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from interp.commands.options import ModelOptions, OutFile, OutFolder, RowOptions
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="massive",
    help="Massive activations: find them, follow them through training, intervene on them.",
    help_epilogue=examples(
        "interp massive gpt2 --data my_text/ --html massive.html",
        "interp massive intervene gpt2 --data my_text/ --to mean",
        "interp massive sweep pythia-70m --data my_text/ --steps paper --out runs/sweep",
        "interp massive predict releases/pythia_70m releases/pythia_160m",
    ),
)


@app.default
def measure(
    model: str,
    /,
    *,
    data: str,
    rows: Annotated[RowOptions, Parameter(name="*")] = RowOptions(),
    loading: ModelOptions = ModelOptions(),
    absolute: float = 100.0,
    relative: float = 1000.0,
    mad: float | None = None,
    persistence: float | None = None,
    top: int = 3,
    html: OutFile | None = None,
) -> None:
    """Measure every layer: largest magnitudes and median, massive activations, attention sinks, super weights.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    data
        Text or token ids, as interp cache takes them.
    absolute
        A massive activation's magnitude is above this ...
    relative
        ... and at least this many times the median.
    mad
        ... and, where given, at least this many median absolute deviations above the median ...
    persistence
        ... and all that after at least this share of the blocks, such as 0.5.
    top
        Largest magnitudes kept of each layer and sequence.
    html
        Page to write.
    """
    from rich.console import Console

    from interp.massive import attention_sinks, detect, find_super_weights, layer_stats
    from interp.massive.text_report import print_stats, print_super_weights
    from interp.models.loading import load_model
    from interp.tokens.sequences import text_rows

    loaded = load_model(model, **vars(loading))
    tokens, mask = text_rows(loaded, data, **vars(rows))
    console = Console(highlight=False)
    say_plan(
        f"{len(tokens)} rows of {tokens.shape[1]} tokens of {model}: every block, its attention, and super weights"
    )
    stats = layer_stats(loaded, tokens, mask=mask, top=top)
    found = detect(stats, absolute=absolute, relative=relative, mad=mad, persistence=persistence)
    sinks = attention_sinks(loaded, tokens)
    print_stats(console, stats, found, sinks, attention_sinks(loaded, tokens[:2], window=None))
    weights = find_super_weights(loaded, tokens[:1])
    print_super_weights(console, weights)
    answer({"layers": stats, "massive": list(found), "sinks": sinks.sink_rate(), "super_weights": list(weights)})
    if html:
        from interp.massive.pages import model_page

        page = model_page(loaded, tokens, name=model, stats=stats, found=found, sinks=sinks, super_weights=weights)
        console.print(f"Report: {page.write(html)}")


@app.command
def intervene(
    model: str,
    /,
    *,
    data: str,
    to: str = "zero",
    heldout: str | None = None,
    layer: int | None = None,
    position: int | None = None,
    dim: int | None = None,
    all_layers: bool = False,
    rows: Annotated[RowOptions, Parameter(name="*")] = RowOptions(),
    revision: str | None = None,
    device: str | None = None,
) -> None:
    """Overwrite massive activations where they emerge, or one entry, and print loss, perplexity and KL with controls.

    Parameters
    ----------
    model
        As for interp massive.
    data
        Text or token ids to measure the loss on.
    to
        zero, mean (of the same dimension and token class on held-out text), or a number.
    heldout
        Text for the mean; by default the rows of data after those measured.
    layer
        Block after which to overwrite; with position and dim, one entry of every sequence.
    position
        Of that entry.
    dim
        Of that entry.
    all_layers
        Overwrite the massive activations of all blocks at once, not only where they emerge.
    revision
        Training checkpoint, such as step1000.
    device
        By default a GPU where there is one.
    """
    from rich.console import Console

    from interp import massive
    from interp.massive.text_report import print_intervention
    from interp.models.loading import load_model
    from interp.tokens.sequences import text_rows

    place = {"layer": layer, "position": position, "dim": dim}
    given = {name: value for name, value in place.items() if value is not None}
    if len(given) not in (0, 3):
        raise ValueError("one entry is named by --layer, --position and --dim together; without them, all massive ones")
    if given and all_layers:
        raise ValueError(
            "--all-layers is for massive activations, not for the one entry of --layer, --position and --dim"
        )
    try:
        target = to if to in ("zero", "mean") else float(to)
    except ValueError:
        raise ValueError(f"--to is {to!r}; it must be zero, mean or a number") from None
    loaded = load_model(model, revision=revision, device=device)
    tokens, mask = text_rows(loaded, data, **vars(rows))
    tokens = tokens[mask.all(1)]  # a loss on padding would mean nothing
    others = None
    if to == "mean":
        skip = rows.sequences if heldout is None else 0
        others, mask = text_rows(loaded, heldout or data, **vars(replace(rows, context=tokens.shape[1])), skip=skip)
        others = others[mask.all(1)]
    say_plan(f"{len(tokens)} rows of {tokens.shape[1]} tokens of {model}, clean, overwritten and with two controls")
    entries: Any = [massive.Entry(**given)] if given else None
    if all_layers:
        entries = massive.detect(massive.layer_stats(loaded, tokens)) or None  # none at all is refused there
    found = massive.intervene(loaded, tokens, entries=entries, to=target, heldout=others)  # type: ignore[arg-type]
    answer(found)
    print_intervention(Console(highlight=False), found)


@app.command(name="sweep")
def sweep_(
    model: str,
    /,
    *,
    data: str,
    out: OutFolder,
    steps: str = "all",
    budget: str | None = None,
    rows: Annotated[RowOptions, Parameter(name="*")] = RowOptions(),
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
) -> None:
    """Measure every checkpoint of a training run; killed and started again, it continues.

    Parameters
    ----------
    model
        embedded, a folder with step{N} subfolders, or a model of the hub, such as pythia-410m.
    data
        Text or token ids; the same rows are measured at every checkpoint.
    out
        Folder for the results.
    steps
        all, paper (37 of Pythia's 154), log (each at least twice the one before), or a list such as 0,512,143000.
    budget
        Disk that downloaded checkpoints may take, such as 5GB; with room for two, the next is fetched ahead.
    dtype
        Of the weights; published figures are of float32.
    device
        By default a GPU where there is one.
    """
    from rich.console import Console

    from interp.checkpoints.sources import none_of_these, open_source
    from interp.counts import parse_count
    from interp.massive.pages import training_page
    from interp.massive.sweep_table import FEWEST_TO_FIT
    from interp.massive.text_report import print_sweep
    from interp.massive.training_sweep import sweep
    from interp.tokens.sequences import training_rows

    try:
        limit = parse_count(budget.strip().lower().removesuffix("b")) if budget else None
    except ValueError:
        raise ValueError(f"--budget is {budget!r}; it must be a size such as 5GB or 500MB") from None
    source = open_source(model)
    tokens, mask = training_rows(source, data, **vars(rows))
    console = Console(highlight=False)
    say_plan(f"{len(tokens)} rows of {tokens.shape[1]} tokens at the checkpoints {steps} of {source.name}, into {out}")
    run = sweep(
        source, tokens[mask.all(1)], out, steps=steps, dtype=dtype, device=device, budget=limit, tell=console.print
    )
    print_sweep(console, run)
    if not run.table.measured:
        raise ValueError(none_of_these(steps, source))
    answer({"results": out / "results.jsonl", "steps": [each.step for each in run.table.measured], "done": run.done})
    kept = [row for row in run.table.rows if not row.suspect]
    fits = run.table.fits() if len(kept) >= FEWEST_TO_FIT else []
    console.print(f"Report: {training_page(run.table, fits).write(out / 'report.html')}")


@app.command(name="predict")
def predict_(releases: list[Path], /, *, quantity: Literal["ratio", "top1", "median"] = "ratio") -> None:
    """Predict emergence curves from the architecture: R² held out by layer, by model, and with shuffled targets.

    Parameters
    ----------
    releases
        Folders pythia_<size> of the dataset of arXiv 2508.03616, of two models or more.
    quantity
        Whose curves.
    """
    from rich.console import Console

    from interp.massive.text_report import print_predictions
    from interp.trajectory.prediction import predict_released
    from interp.trajectory.released import read_release

    found = predict_released(list(map(read_release, releases)), quantity=quantity)
    answer(found)
    print_predictions(Console(highlight=False), found)
