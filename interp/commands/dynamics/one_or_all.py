"""What the commands here share: one model, or every checkpoint of its training, measured, printed, and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from interp.commands.options import OutFile, OutFolder, RowOptions
from interp.terminal.answers import answer
from interp.terminal.mode import say_plan

if TYPE_CHECKING:
    from interp.checkpoints import Measurement


REPEATED = "repeated"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which model, on what, and where to."""

    data: str
    """Text or token ids, as interp cache takes them, or repeated: random tokens, each row twice. The same rows at every
    checkpoint."""
    steps: str | None = None
    """Checkpoints: all, paper, log or a list such as 0,512,143000. By default the last alone."""
    out: OutFolder = Path("runs/dynamics")
    """Folder for the results of --steps; killed and started again, it continues there."""
    html: OutFile | None = None
    """Page to write; with --steps it is report.html in --out."""
    budget: str | None = None
    """Disk that downloaded checkpoints may take, such as 5GB; with room for two, the next is fetched ahead."""
    rows: Annotated[RowOptions, Parameter(name="*")] = RowOptions()
    """How text is laid out in rows, and how many of them."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights: their number format."""
    device: str | None = None
    """By default a GPU where there is one."""


def measure(model: str, title: str, measurements: "Sequence[Measurement]", options: Options) -> None:
    """Measure one model, or with --steps its checkpoints; print tables, and write the page."""
    from rich.console import Console

    from interp.checkpoints.pages import model_page, training_page
    from interp.checkpoints.text_report import print_quantities, print_run

    console = Console(highlight=False)
    if options.steps is None:
        from interp.models.loading import load_model

        loaded = load_model(model, dtype=options.dtype, device=options.device)
        whole = whole_rows(loaded, options)
        say_plan(f"{title} of {model}: {len(whole)} rows of {whole.shape[1]} tokens")
        found = [(each, each.run(loaded, whole)) for each in measurements]
        answer({what.name: quantities for what, quantities in found})
        for what, quantities in found:
            print_quantities(console, what, quantities)
        if options.html:
            page = model_page(f"{title} of {model}", found, tokens=whole)
            console.print(f"Report: {page.write(options.html)}")
        return
    from transformers import AutoConfig

    from interp.checkpoints import open_source, sweep
    from interp.checkpoints.sources import none_of_these
    from interp.tokens.sequences import training_rows

    source = open_source(model)
    if options.data == REPEATED:
        config = AutoConfig.from_pretrained(source.config_folder(), local_files_only=True, trust_remote_code=False)
        whole = _repeated(config.vocab_size, config.max_position_embeddings, options)
    else:
        whole = whole_rows_of(*training_rows(source, options.data, **vars(options.rows)))
    say_plan(f"{title}: {len(whole)} rows of {whole.shape[1]} tokens, {options.steps} checkpoints of {source.name}")
    run = sweep(
        source,
        whole,
        measurements,
        options.out,
        steps=options.steps,
        dtype=options.dtype,
        device=options.device,
        budget=bytes_of(options.budget),
        tell=console.print,
    )
    answer({"results": options.out / "results.jsonl", "done": run.done})
    print_run(console, run)
    curves = [each for each in run.curves.values() if each.points]
    if not curves:
        raise ValueError(none_of_these(options.steps, source))
    page = training_page(f"{title} over the training of {source.name}", curves)
    console.print(f"Report: {page.write(options.out / 'report.html')}")


def whole_rows(model: Any, options: Options) -> Any:
    """Rows of the text that hold no padding."""
    from interp.tokens.sequences import text_rows

    if options.data == REPEATED:
        return _repeated(int(model.cfg.d_vocab), int(model.cfg.n_ctx), options)
    return whole_rows_of(*text_rows(model, options.data, **vars(options.rows)))


def _repeated(vocab: int, longest: int, options: Options) -> Any:
    from interp.clamping import repeated_rows

    context = min(101, longest) if options.rows.context is None else options.rows.context
    if not 5 <= context <= longest:
        raise ValueError(f"--context is {context}; rows of repeated tokens have 5 to {longest} here")
    return repeated_rows(vocab, sequences=options.rows.sequences, half=(context - 1) // 2)


def whole_rows_of(tokens: Any, mask: Any) -> Any:
    """Those of rows that hold no padding."""
    whole = tokens[mask.all(1)]
    if not len(whole):
        raise ValueError("the text fills no whole row: give a smaller --context, or more text")
    return whole


def bytes_of(budget: str | None) -> int | None:
    """A size in words as a number."""
    from interp.counts import parse_count

    try:
        return parse_count(budget.strip().lower().removesuffix("b")) if budget else None
    except ValueError:
        raise ValueError(f"--budget is {budget!r}; it must be a size such as 5GB or 500MB") from None
