"""``interp darkmatter``: what sparse autoencoders miss, split, measured and reduced."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from interp.commands.options import OutFolder
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan
from saes.dark_matter.settings import Settings

app = App(
    name="darkmatter",
    help="Split the error of SAEs into parts and measure them, as a page and as JSON.",
    help_epilogue=examples(
        "interp darkmatter --sae sae --store acts --out dark_matter",
    ),
)


@app.default
def darkmatter(
    *,
    sae: Annotated[list[Path], Parameter(consume_multiple=True)],
    store: Path,
    out: OutFolder,
    components: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    model: str | None = None,
    revision: str | None = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
) -> None:
    """Measure one SAE, or a family at one site.

    Parameters
    ----------
    sae
        Folders of SAEs, of one site; three widths or more at one L0 give a scaling law.
    store
        Folder that `interp cache` wrote, with activations of their site.
    out
        Folder for darkmatter.json, darkmatter.html and the SAEs that are trained on errors.
    components
        Folders of SAEs at earlier sites that the store holds too, to predict the error from.
    model
        By default the one that the store was cached from.
    revision
        Training checkpoint of the model.
    """
    import sys

    from rich.console import Console
    from rich.table import Table

    from saes.dark_matter.page import family_table, figure_table
    from saes.dark_matter.run import run_study

    say_plan(f"{len(sae)} SAE{'s' if len(sae) > 1 else ''}, and the activations in {store}; settings as in --help")
    result = run_study(
        sae, store, out, components=components or (), model=model, revision=revision, settings=settings or Settings()
    )
    answer(result.to_json())
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    columns, lines = figure_table(result) if len(result.saes) == 1 else family_table(result)
    table = Table(title=f"Dark matter at {result.site}: {result.tokens:,} tokens")
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    print(f"The page is {(out / 'darkmatter.html').resolve()}: open it in a browser.")
