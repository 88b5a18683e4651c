"""``interp sae features``: a page that shows what single latents respond to."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interp.commands.options import OutFile
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.mode import say_plan
from saes.commands.options import MeasuredText


def features(
    sae: Path,
    /,
    *,
    data: Path,
    html: OutFile,
    latents: str | None = None,
    max_latents: int = 500,
    examples: int = 8,
    options: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 100_000,
) -> None:
    """Write a page of latents: passages where each is most active, its effect on the next token, its nearest ones.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text to look for passages in: a file or folder, as for `interp cache`.
    html
        Page to write; it holds everything and opens offline.
    latents
        Numbers, such as 0,5,9; by default as many as --max-latents, spread over how dense they are.
    max_latents
        How many to choose where --latents does not; a page of 500 has two or three megabytes.
    examples
        Passages a latent.
    tokens
        How many to read.
    """
    chosen = None if latents is None else _numbers(latents)

    from saes.commands.inputs import open_inputs
    from saes.features.book import look_up
    from saes.features.examples import Text
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
        say_plan(f"{inputs.sae.d_sae:,} latents counted, and then examples looked for, in {inputs.planned(tokens)}")
        book = look_up(inputs.sae, text, latents=chosen, max_latents=max_latents, examples=examples)
        path = write_feature_page(
            book,
            html,
            title=f"Latents of {sae.name}, {inputs.sae.activation.name} SAE on {inputs.model_name}",
            data=str(data),
            text_of=token_texts(inputs.model.tokenizer),
        )
    answer({"html": path, "latents": book.latents})
    print(f"{len(book.latents):,} latents in {path}: open it in a browser.")


def _numbers(latents: str) -> list[int]:
    try:
        return [int(part) for part in latents.split(",")]
    except ValueError:
        raise ValueError(f"--latents {latents}: numbers with commas between them are wanted, such as 0,5,9") from None
