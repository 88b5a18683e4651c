"""``interp sparsity``: how few neurons of its MLPs a model needs, and since when in its training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from interp.commands.options import OutFolder, RowOptions
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

if TYPE_CHECKING:
    from interp.sparsity.activation_sparsity import Sparsity
    from interp.sparsity.laws import ActivationLaw

app = App(
    name="sparsity",
    help="Activation sparsity: the share of neurons that a model can do without.",
    help_epilogue=examples(
        "interp sparsity gpt2 --data my_text/",
        "interp sparsity embedded --data my_text/ --steps log",
    ),
)


@app.default
def sparsity(
    model: str,
    /,
    *,
    data: str,
    ppl: float = 1.0,
    steps: str | None = None,
    scored: Literal["product", "gate"] = "product",
    tokens_per_step: int | None = None,
    out: OutFolder = Path("runs/sparsity"),
    rows: Annotated[RowOptions, Parameter(name="*")] = RowOptions(),
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
) -> None:
    """PPL-p% sparsity by CETT (Sparsing Law, arXiv 2411.02335), beside Top-k, one threshold for all (FAT) and exact
    zeros, of every layer; or of every checkpoint, with both laws of the activation ratio against tokens seen.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    data
        Text or token ids, as interp cache takes them.
    ppl
        Rise in perplexity allowed, in percent; the paper recommends 1.
    steps
        all, paper, log or a list such as 0,512,143000: these checkpoints, at the last one's CETT.
    scored
        What Top-k and FAT compare: the product that enters a gated MLP's last projection, or the activated gate.
    tokens_per_step
        Of the training run, for the laws; known of embedded and of Pythia.
    out
        Folder for the results of --steps; killed and started again, it continues there.
    dtype
        Of the weights.
    device
        By default a GPU where there is one.
    """
    from rich.console import Console
    from rich.table import Table

    from interp.checkpoints.schedules import tokens_per_step as known_tokens_per_step
    from interp.checkpoints.sources import open_source
    from interp.models.loading import load_model
    from interp.sparsity.activation_sparsity import check_percentage, nonzeros, ppl_sparsity
    from interp.sparsity.laws import FEWEST_POINTS
    from interp.sparsity.other_rules import kept_at_perplexity
    from interp.sparsity.over_training import sparsity_over_training
    from interp.tokens.sequences import text_rows, training_rows

    check_percentage(ppl)
    if tokens_per_step is not None and (steps is None or tokens_per_step < 1):
        raise ValueError(
            f"tokens_per_step is {tokens_per_step}, and steps {steps}: it is for laws over --steps, and 1 or more"
        )
    console = Console(highlight=False)
    if steps is not None:
        source = open_source(model)
        tokens, mask = training_rows(source, data, **vars(rows))
        say_plan(f"{len(tokens)} rows of {tokens.shape[1]} tokens at the checkpoints {steps} of {source.name}")
        run = sparsity_over_training(
            source, tokens[mask.all(1)], out, steps=steps, p=ppl, dtype=dtype, device=device, tell=console.print
        )
        table = Table("step", "inactive neurons", "perplexity ratio", show_edge=False)
        for step, found in run.items():
            table.add_row(str(step), str(found.share), f"{found.perplexity_ratio:.4f}")
        console.print(table)
        console.print(f"CETT {next(iter(run.values())).cett:.4f}, the last checkpoint's at +{ppl:g} % perplexity.")
        seen = tokens_per_step or known_tokens_per_step(source.name)
        laws = _laws(run, seen)
        for line in map(_said, laws):
            console.print(line)
        if not laws:
            why = "give --tokens-per-step" if seen is None else f"they take {FEWEST_POINTS} checkpoints after step 0"
            console.print(f"No law of the activation ratio: {why}.")
        answer({"steps": run, "laws": laws})
        return
    loaded = load_model(model, dtype=dtype, device=device)
    tokens, mask = text_rows(loaded, data, **vars(rows))
    tokens = tokens[mask.all(1)]
    say_plan(f"{len(tokens)} rows of {tokens.shape[1]} tokens of {model}, read about fifty times")
    active, found = nonzeros(loaded, tokens), ppl_sparsity(loaded, tokens, p=ppl)
    topk, fat = (kept_at_perplexity(loaded, tokens, rule=rule, p=ppl, scored=scored) for rule in ("topk", "fat"))
    table = Table("block", "inactive neurons", "up to a norm of", "CETT reached", "exact zeros", show_edge=False)
    columns = zip(found.layers, found.thresholds, found.reached, active.layers, strict=True)
    for layer, (share, limit, reached, other) in enumerate(columns):
        table.add_row(str(layer), str(share), f"{limit:.3g}", f"{reached:.4f}", f"{1 - other.value:.3f}")
    console.print(table)
    nonzero = {"share": active.share, "layers": active.layers}
    answer({"sparsity": found, "nonzero": nonzero, "topk": topk, "fat": fat})
    console.print(
        f"{found.share} of the neurons can go at CETT {found.cett:.4f}, for a perplexity {found.perplexity_ratio:.4f}"
        f" times as large; ± over {len(tokens)} sequences. Exact zeros: {1 - active.share.value:.3f}."
    )
    console.print(
        f"As much perplexity by other rules: the {topk.level:.0f} largest of each token, {topk.active} of the neurons;"
        f" those above {fat.level:.3g} in every block, {fat.active}; by CETT {1 - found.share.value:.4g}."
    )


def _laws(run: "dict[int, Sparsity]", tokens_per_step: int | None) -> "list[ActivationLaw]":
    """Both forms over the checkpoints after step 0; none where tokens are not known, or points are few."""
    from interp.sparsity.laws import FEWEST_POINTS, fit_activation_ratio

    steps = [step for step in run if step > 0]
    if tokens_per_step is None or len(steps) < FEWEST_POINTS:
        return []
    seen, ratios = [step * tokens_per_step for step in steps], [1 - run[step].share.value for step in steps]
    return [fit_activation_ratio(seen, ratios, form="relu"), fit_activation_ratio(seen, ratios, form="silu")]


def _said(law: "ActivationLaw") -> str:
    """A law in one line, with its limit only where the points tell it."""
    name = "exp(-c D^a + b) + A0 (ReLU)" if law.form == "relu" else "A0 - c / D^a (SiLU)"
    known = ", ".join(f"{key} {value:.4g}" for key, value in law.parameters.items())
    low, high = law.intervals["A0"] if law.identifiable else law.intervals["last_ratio"]
    what = "A0" if law.identifiable else "not identifiable; at the last point"
    return f"{name} over {law.n} points: R² {law.r2:.3f}, AIC {law.aic:.1f}, {known}; {what} {low:.4g} to {high:.4g}"
