"""``interp eval``: the figures of one sparse autoencoder or dictionary over several places."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from interp.commands.options import OutFile
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan
from saes.commands.options import MeasuredText

app = App(
    name="eval",
    help="Measure an SAE: reconstruction, sparsity, and the model's loss with it spliced in.",
    help_epilogue=examples(
        "interp eval sae --data heldout.txt --html page.html",
        "interp eval sae --data heldout.txt --json",
    ),
)


@app.default
def evaluate(
    sae: Path,
    /,
    *,
    data: Path,
    text: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 100_000,
    save: OutFile | None = None,
    html: OutFile | None = None,
) -> None:
    """Evaluate and print.

    Parameters
    ----------
    sae
        Folder of an SAE, of a dictionary over several places, or of several SAEs, which are measured in one pass.
    data
        Text that it was not trained on: a file or folder, as for `interp cache`.
    tokens
        How many to evaluate on.
    save
        JSON file for the figures.
    html
        Page that shows them; it is one file and opens offline.
    """
    from rich.console import Console

    from interp.files.writing import write_json
    from saes.commands.inputs import load_all, open_inputs
    from saes.evaluation import page, places_page, set_page, table
    from saes.evaluation.places_report import evaluate_places
    from saes.evaluation.report import evaluate as measure
    from saes.publishing.identity import identity_of
    from saes.sae import SAE
    from saes.sets.dictionary_set import DictionarySet

    with open_inputs(sae, data=data, tokens=tokens, options=text, load=load_all) as inputs:
        loaded, model, rows = inputs.loaded, inputs.model, inputs.rows
        if isinstance(loaded, DictionarySet):
            name = f"{len(loaded)} dictionaries"
        else:
            name = f"{loaded.activation.name} {'SAE' if isinstance(loaded, SAE) else loaded.layout.name}"
        say_plan(f"{name} on {inputs.model_name}: {inputs.planned(tokens)}, each run clean, spliced and ablated")
        about = {"title": f"{name} on {inputs.model_name}", "data": str(data)}
        which: dict[str, Any] = {
            "max_tokens": tokens,
            "first_position": inputs.first_position,
            "drop_tokens": inputs.drop_tokens,
        }
        if isinstance(loaded, SAE):
            report = measure(loaded, model, rows, **which)
            shown, tables = page.build_page(report, **about), table.tables(report, title=str(sae))
            figures = report.to_json() | {"sae": identity_of(loaded)}
        elif isinstance(loaded, DictionarySet):
            of_all = loaded.eval(model, rows, **which)
            shown, tables = set_page.build_page(of_all, **about), iter([set_page.table(of_all, title=str(sae))])
            figures = of_all.to_json()
        else:
            found = evaluate_places(loaded, model, rows, **which)
            shown, tables = places_page.build_page(found, **about), places_page.tables(found, title=str(sae))
            figures = found.to_json()
    figures |= {"text": inputs.settings, "data": data.name}
    answer(figures)
    if save is not None:
        write_json(save, figures)
    if html is not None:
        shown.write(html)
    for one in tables:
        Console().print(one)
    if isinstance(loaded, SAE) and report.l0.value > loaded.d_in:
        print(
            f"warning: L0 {report.l0.value:.1f} is above the {loaded.d_in:,} dimensions read: nothing is sparse",
            file=sys.stderr,
        )
    if html is not None:
        print(f"The page is {html}: open it in a browser.")
