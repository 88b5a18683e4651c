"""``interp eval``: the figures of one sparse autoencoder."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from interp.counts import Count

app = App(name="eval", help="Measure an SAE: reconstruction, sparsity, and the model's loss with it spliced in.")


@app.default
def evaluate(
    sae: Path,
    /,
    *,
    data: Path,
    model: str | None = None,
    revision: str | None = None,
    tokens: Count = 100_000,
    context: int | None = None,
    packing: Literal["packed", "document"] | None = None,
    bos: Literal["model", "row", "document", "never"] | None = None,
    first_position: int = 0,
    out: Path | None = None,
    html: Path | None = None,
) -> None:
    """Evaluate and print.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text that it was not trained on: a file or folder, as for `interp cache`.
    model
        By default the model whose activations it was trained on.
    revision
        Training checkpoint of the model.
    tokens
        How many to evaluate on.
    context
        Tokens a row; by default as in training, else the model's context, at most 512.
    packing
        As for `interp cache`; by default as in training.
    bos
        As for `interp cache`; by default as in training.
    first_position
        Earlier positions of a row stay clean and are not counted.
    out
        Also write the figures there, as JSON.
    html
        Also write a page there that shows them; it is one file and opens offline.
    """
    from rich.console import Console

    from interp.files import write_json
    from saes.evaluate import evaluate as measure
    from saes.evaluation_page import build_page
    from saes.evaluation_table import tables
    from saes.sae_inputs import open_inputs

    with open_inputs(
        sae, data=data, tokens=tokens, model=model, revision=revision, context=context, packing=packing, bos=bos
    ) as inputs:
        report = measure(inputs.sae, inputs.model, inputs.rows, max_tokens=tokens, first_position=first_position)
    if out is not None:
        write_json(out, report.to_json())
    if html is not None:
        page = build_page(report, title=f"{inputs.sae.activation.name} SAE on {inputs.model_name}", data=str(data))
        page.write(html)
    for table in tables(report, title=str(sae)):
        Console().print(table)
    if html is not None:
        print(f"The page is {html}: open it in a browser.")
