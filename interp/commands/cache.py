"""``interp cache``: activations of a model to disk; ``interp cache verify``: read them all again."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from interp.commands.options import OutFolder
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="cache",
    help="Cache a model's activations in a folder. The same command again continues.",
    help_epilogue=examples(
        "interp cache gpt2 --sites 'blocks.*.hook_resid_post' --data my_text/ --tokens 2M --out acts",
        "interp cache verify acts",
    ),
)


@app.default
def cache(
    model: str,
    /,
    *,
    sites: Annotated[list[str], Parameter(consume_multiple=True)],
    data: str,
    tokens: Count,
    out: OutFolder,
    revision: str | None = None,
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
    context: int | None = None,
    column: str = "text",
    split: str | None = None,
    packing: Literal["packed", "document"] = "packed",
    bos: Literal["model", "row", "document", "never"] = "model",
    store_dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32",
    drop_special: bool = False,
    drop_first: int = 0,
    drop_norm_above: float | None = None,
    batch_rows: int | None = None,
    shard_size: Count = 256_000_000,
    dry_run: bool = False,
) -> None:
    """Cache activations.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    sites
        Names or patterns, such as 'blocks.*.hook_resid_post' or blocks.2-5.hook_mlp_out.
    data
        A text file or folder, JSONL, parquet, token ids (.npy, .bin), or a data set of the Hugging Face hub.
    tokens
        How many to run the model on, such as 250k or 2M; fewer where the data end.
    out
        Folder to write.
    revision
        Training checkpoint, such as step1000.
    model_dtype
        Of the weights; bfloat16 is about twice as fast on many machines.
    device
        By default a GPU where there is one.
    context
        Tokens a row; by default the model's context, at most 512.
    column
        Of JSONL, parquet and data sets: text, or lists of token ids.
    split
        Of a data set.
    packing
        packed puts documents end to end; document gives each a row of its own.
    bos
        Where a beginning-of-sequence token is put: as the model's tokenizer does, row, document or never.
    store_dtype
        On disk; int8 has one scale a token.
    drop_special
        Leave out BOS, separators and other special tokens.
    drop_first
        Leave out that many positions of every row.
    drop_norm_above
        Leave out tokens with a norm above that many times the median.
    batch_rows
        Rows to run at once; by default about 4,096 tokens.
    shard_size
        Bytes of a shard, such as 256M; twice that is held in memory.
    dry_run
        Print the plan and stop.
    """
    from interp.store.folder import check_folder

    check_folder(out)  # at once, rather than when the model has been loaded
    from interp import processes
    from interp.files.scratch import scratch_folder
    from interp.models.loading import load_model
    from interp.sites.site import expand_sites
    from interp.store.caching import plan, prepare, run
    from interp.store.masks import Masks
    from interp.tokens.for_model import rows_for
    from interp.tokens.token_rows import open_token_rows

    group = processes.current()
    masks = Masks(drop_special=drop_special, drop_first=drop_first, drop_norm_above=drop_norm_above)
    with group.telling_others(), scratch_folder() as scratch:
        loaded = load_model(model, revision=revision, dtype=model_dtype, device=device or processes.default_device())
        expand_sites(loaded, sites)  # before anything is written
        folder = (scratch if dry_run else out) / "tokens"
        if group.leads or dry_run:
            how = {"column": column, "split": split, "packing": packing, "bos": bos}
            rows_for(loaded, data, folder, tokens=tokens, context=context, **how)
        group.wait_for_all()
        job = prepare(
            loaded,
            open_token_rows(folder),
            sites,
            out,
            dtype=store_dtype,
            masks=masks,
            batch_rows=batch_rows,
            shard_bytes=shard_size,
        )
        if group.leads:
            needs = plan(job)
            answer(needs)
            (print if dry_run else say_plan)(needs)
            needs.check()
        if dry_run:
            return
        store = run(job, progress=True)
    if group.leads:
        answer({"store": out, "tokens": len(store), "sites": list(map(str, store.sites)), "dtype": store.dtype})
        print(
            f"{len(store):,} tokens in {out}; train on them with: interp train --store {out} --site {store.sites[-1]}"
        )


@app.command
def verify(folder: Path, /) -> None:
    """Read every byte of a store and name what is missing, truncated or altered; exit status 1 if anything is.

    Parameters
    ----------
    folder
        What `interp cache` wrote.
    """
    from interp.store.activation_store import ActivationStore
    from interp.store.activation_store import verify as faults_of
    from interp.tokens.token_rows import verify_token_rows

    faults = faults_of(folder)
    if (folder / "tokens").is_dir():
        try:
            verify_token_rows(folder / "tokens")
        except ValueError as error:
            faults.append(str(error))
    answer({"store": folder, "whole": not faults, "faults": faults})
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print("Delete what is damaged; the same interp cache command writes it again", file=sys.stderr)
        sys.exit(1)
    store = ActivationStore(folder)
    print(f"{folder} is whole: {len(store):,} tokens at {len(store.sites)} sites as {store.dtype}")
