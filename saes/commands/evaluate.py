"""``interp eval``: the figures of one sparse autoencoder."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from interp.commands.options import OutFile
from interp.counts import Count
from saes.commands.options import MeasuredText

app = App(name="eval", help="Measure an SAE: reconstruction, sparsity, and the model's loss with it spliced in.")


@app.default
def evaluate(
    sae: Path,
    /,
    *,
    data: Path,
    text: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 100_000,
    out: OutFile | None = None,
    html: OutFile | None = None,
) -> None:
    """Evaluate and print.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text that it was not trained on: a file or folder, as for `interp cache`.
    tokens
        How many to evaluate on.
    out
        Also write the figures there, as JSON.
    html
        Also write a page there that shows them; it is one file and opens offline.
    """
    from rich.console import Console

    from interp.files.writing import write_json
    from saes.commands.inputs import open_inputs
    from saes.evaluation.page import build_page
    from saes.evaluation.report import evaluate as measure
    from saes.evaluation.table import tables

    with open_inputs(sae, data=data, tokens=tokens, options=text) as inputs:
        report = measure(
            inputs.sae,
            inputs.model,
            inputs.rows,
            max_tokens=tokens,
            first_position=inputs.first_position,
            drop_tokens=inputs.drop_tokens,
        )
    if out is not None:
        write_json(out, report.to_json() | {"text": inputs.settings})
    if html is not None:
        page = build_page(report, title=f"{inputs.sae.activation.name} SAE on {inputs.model_name}", data=str(data))
        page.write(html)
    for table in tables(report, title=str(sae)):
        Console().print(table)
    if html is not None:
        print(f"The page is {html}: open it in a browser.")
