"""``interp eval``: the figures of one sparse autoencoder or dictionary over several places."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

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
        "interp eval sae --data heldout.txt --suite core,probing,absorption,scr,tpp,ravel",
        "interp eval sae --data heldout.txt --suite probing --labelled mine.jsonl --position last",
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
    suite: str = "core",
    labelled: str | None = None,
    position: Literal["mean", "last"] = "mean",
    entities: Path | None = None,
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
    suite
        Which evaluations, with commas between: core (reconstruction, sparsity and loss), probing, absorption, scr, tpp,
        ravel; or all. Those beyond core are of one SAE.
    labelled
        Texts that probing, absorption, scr and tpp take in place of their own sets: a JSONL file of objects with text
        and label (perhaps group, and second), or a set's name.
    position
        Which tokens stand for a text of such a file: their mean, or the last one.
    entities
        JSON file with questions and entities that ravel takes in place of its cities.
    """
    from rich.console import Console

    from interp.files.writing import write_json
    from interp.pages.html_page import Page
    from interp.terminal.answers import plain
    from saes.commands.inputs import load_all, open_inputs
    from saes.evaluation import page, places_page, set_page, table
    from saes.evaluation.places_report import evaluate_places
    from saes.evaluation.report import evaluate as measure
    from saes.own_sites import own_sites
    from saes.publishing.identity import identity_of
    from saes.sae import SAE
    from saes.sets.dictionary_set import DictionarySet
    from saes.suites import shown as suites_shown
    from saes.suites.running import parse_suites, run_suites

    suites = parse_suites(suite)
    beyond = [one for one in suites if one != "core"]
    with open_inputs(sae, data=data, tokens=tokens, options=text, load=load_all) as inputs:
        loaded, model, rows = inputs.loaded, inputs.model, inputs.rows
        if beyond and not isinstance(loaded, SAE):
            raise ValueError(f"{', '.join(beyond)} are of one SAE, and {sae} is no SAE or several: name one")
        if isinstance(loaded, DictionarySet):
            name = f"{len(loaded)} dictionaries"
        else:
            name = f"{loaded.activation.name} {'SAE' if isinstance(loaded, SAE) else loaded.layout.name}"
        plans = [f"{inputs.planned(tokens)}, each run clean, spliced and ablated"] if "core" in suites else []
        say_plan(f"{name} on {inputs.model_name}: {'; '.join([*plans, *beyond])}")
        about = {"title": f"{name} on {inputs.model_name}", "data": str(data)}
        which: dict[str, Any] = {
            "first_position": inputs.first_position,
            "drop_tokens": inputs.drop_tokens,
        }
        if isinstance(loaded, DictionarySet):
            of_all = loaded.eval(model, rows, max_tokens=tokens, **which)
            shown, tables = set_page.build_page(of_all, **about), [set_page.table(of_all, title=str(sae))]
            figures = of_all.to_json()
        elif not isinstance(loaded, SAE):
            found = evaluate_places(loaded, model, rows, max_tokens=tokens, **which)
            shown, tables = places_page.build_page(found, **about), list(places_page.tables(found, title=str(sae)))
            figures = found.to_json()
        elif "core" in suites:
            report = measure(loaded, model, rows, max_tokens=tokens, **which)
            shown, tables = page.build_page(report, **about), list(table.tables(report, title=str(sae)))
            figures = report.to_json() | {"sae": identity_of(loaded)}
        else:
            shown, tables, figures = Page(about["title"]), [], {"sae": identity_of(loaded)}
        if beyond and isinstance(loaded, SAE):
            several = run_suites(
                loaded,
                model,
                own_sites(loaded, model=model)[0],
                beyond,
                labelled=labelled,
                position=position,
                entities=entities,
                bos=rows.info["bos"],
                context=inputs.settings["context"],
                **which,
            )
            suites_shown.add_to(shown, several)
            tables.append(suites_shown.table(several, title=f"{sae} beyond reconstruction"))
            figures |= {"suites": plain(several)}
    figures |= {"text": inputs.settings, "data": data.name}
    answer(figures)
    if save is not None:
        write_json(save, figures)
    if html is not None:
        shown.write(html)
    for one in tables:
        Console().print(one)
    if isinstance(loaded, SAE) and "core" in suites and report.l0.value > loaded.d_in:
        print(
            f"warning: L0 {report.l0.value:.1f} is above the {loaded.d_in:,} dimensions read: nothing is sparse",
            file=sys.stderr,
        )
    if html is not None:
        print(f"The page is {html}: open it in a browser.")
