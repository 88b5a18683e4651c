"""``interp sae features``: a page that shows what single latents respond to."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interp.commands.options import OutFile, OutFolder
from interp.counts import Count
from saes.commands.options import MeasuredText


def features(
    sae: Path,
    /,
    *,
    data: Path,
    out: OutFile | None = None,
    json: OutFolder | None = None,
    latents: str | None = None,
    max_latents: int = 500,
    examples: int = 8,
    options: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 100_000,
) -> None:
    """Show latents: passages where each is most active, its effect on the next token, its nearest ones; as a
    page, and as data for other tools.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text to look for passages in: a file or folder, as for `interp cache`.
    out
        HTML file to write; it holds everything and opens offline.
    json
        Folder to write the same data to, as SAEDashboard keeps it and as Neuronpedia imports it; new or empty.
    latents
        Numbers, such as 0,5,9; by default as many as --max-latents, spread over how dense they are.
    max_latents
        How many to choose where --latents does not; a page of 500 has one or two megabytes.
    examples
        Passages a latent.
    tokens
        How many to read.
    """
    if out is None and json is None:
        raise ValueError("give --out, a page to write, or --json, a folder for SAEDashboard's and Neuronpedia's files")
    if json is not None and json.exists() and any(json.iterdir()):
        raise ValueError(f"{json} is not empty; choose a new folder")
    chosen = None if latents is None else _numbers(latents)

    from saes.commands.inputs import open_inputs
    from saes.features.book import look_up
    from saes.features.examples import Text
    from saes.features.exports import Names, dashboard_batch, write_exports
    from saes.features.page import token_texts, write_feature_page
    from saes.own_sites import own_sites

    with open_inputs(sae, data=data, tokens=tokens, options=options) as inputs:
        text = Text(
            model=inputs.model,
            rows=inputs.rows,
            site=own_sites(inputs.sae, model=inputs.model, name=str(sae))[0],
            max_tokens=tokens,
            first_position=inputs.first_position,
            drop_tokens=inputs.drop_tokens,
        )
        book = look_up(inputs.sae, text, latents=chosen, max_latents=max_latents, examples=examples)
        text_of = token_texts(inputs.model.tokenizer)
        if json is not None:
            names = Names(
                model=Path(inputs.model_name).name,
                sae_set=f"{sae.name.removesuffix('.pt')}-deepfield",
                dataset=data.name,
            )
            batch = dashboard_batch(inputs.sae, text, book, names, text_of=text_of)
            written = write_exports(book, batch, names, json)
            print(f"{len(book.latents):,} latents for SAEDashboard in {written[0]}, for Neuronpedia in {written[1]}")
        if out is not None:
            title = f"Latents of {sae.name}, {inputs.sae.activation.name} SAE on {inputs.model_name}"
            path = write_feature_page(book, out, title=title, data=str(data), text_of=text_of)
            print(f"{len(book.latents):,} latents in {path}: open it in a browser.")


def _numbers(latents: str) -> list[int]:
    try:
        return [int(part) for part in latents.split(",")]
    except ValueError:
        raise ValueError(f"--latents {latents}: numbers with commas between them are wanted, such as 0,5,9") from None
