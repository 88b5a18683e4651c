"""``interp patch``: exact patching beside its estimates, as a table and as heat maps."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from circuits.commands.options import TaskOptions
from interp.commands.options import OutFile
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="patch",
    help="Patch activations of a task: exact effects beside AtP and Relevance Patching.",
    help_epilogue=examples(
        "interp patch gpt2 --task ioi --nodes z --html heads.html",
    ),
)


@app.default
def patch(
    model: str = "embedded",
    /,
    *,
    about: Annotated[TaskOptions, Parameter(name="*")] = TaskOptions(),
    nodes: tuple[str, ...] = ("resid_pre", "attn_out", "mlp_out"),
    direction: Literal["denoise", "noise"] = "denoise",
    save: OutFile | None = None,
    html: OutFile | None = None,
) -> None:
    """Compare attribution with exact patching.

    Parameters
    ----------
    model
        As for `interp cache`: embedded, smollm2-135m, a hub id, a folder.
    nodes
        Families of nodes; repeat the option for several.
    direction
        denoise patches clean activations into the corrupt run, noise the other way round.
    save
        JSON file for all scores.
    html
        Page of heat maps; it is one file and opens offline.
    """
    from rich.console import Console
    from rich.table import Table

    from circuits.commands.inputs import open_task
    from circuits.comparison import compare
    from circuits.draw import agreement_table, patch_page
    from interp.files.writing import write_json

    language_model, opened = open_task(model, about, direction=direction)
    say_plan(
        f"{opened.name} in {model}: {len(opened)} pairs of prompts of {opened.length} tokens; each node of"
        f" {', '.join(nodes)} is patched, and estimated"
    )
    found = compare(language_model, opened, nodes=nodes)
    console = Console(highlight=False)
    way = "restoring the clean value" if direction == "denoise" else "putting the corrupt value in"
    console.print(f"Largest exact effects of {way}, as a share of the metric's change ({len(opened)} prompts):")
    for family, scores in found.exact.items():
        console.print(f"  {family}: {scores.finding()}", markup=False)
    columns, rows = agreement_table(found)
    table = Table(*columns, title=f"{opened.name} in {model}: {len(opened)} prompts, {direction}", title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in found.seconds.items())
    console.print(f"Wall time: {seconds}.")
    answer({"task": opened.name, "model": model, "prompts": len(opened), **found.to_json()})
    if save is not None:
        write_json(save, found.to_json())
    if html is not None:
        console.print(f"The page is {patch_page(found, opened, model_name=model).write(html)}: open it in a browser.")
