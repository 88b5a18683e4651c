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
    """
    from tempfile import TemporaryDirectory

    from rich.console import Console
    from rich.table import Table

    from interp.files import write_json
    from interp.metrics import Estimate
    from interp.models import context_length, load_model
    from interp.tokens import write_token_rows
    from saes.evaluate import evaluate as measure
    from saes.sae import SAE

    loaded = SAE.load(sae)
    source = loaded.provenance.get("source", {})
    name = model or source.get("model")
    if name is None:
        raise ValueError(f"{sae} does not say which model it belongs to; pass --model")
    language_model = load_model(name, revision=revision)
    with TemporaryDirectory() as folder:
        rows = write_token_rows(
            data,
            language_model.tokenizer,
            Path(folder) / "tokens",
            tokens=tokens,
            context=context or source.get("context") or min(512, context_length(language_model)),
            packing=packing or source.get("packing") or "packed",
            bos=bos or source.get("bos") or "model",
        )
        report = measure(loaded, language_model, rows, max_tokens=tokens, first_position=first_position)
    table = Table(title=f"{sae} at {report.site}: {report.tokens:,} tokens of {report.documents} documents")
    table.add_column("figure")
    table.add_column("value ± standard error", justify="right")
    for field, value in vars(report).items():
        if isinstance(value, Estimate):
            table.add_row(field, str(value))
    Console().print(table)
    if out is not None:
        write_json(out, report.to_json())
