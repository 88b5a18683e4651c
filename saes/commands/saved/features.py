"""``interp sae features``: what single latents respond to, as a page and as data for other tools."""

from pathlib import Path
from typing import Annotated, Any

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
    html: OutFile | None = None,
    export: Path | None = None,
    explanations: Path | None = None,
    latents: str | None = None,
    max_latents: int = 500,
    examples: int = 8,
    facets: bool = False,
    options: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 100_000,
) -> None:
    """Show latents: passages where each is most active, its effect on the next token, its nearest ones.

    Of a dictionary over several places the page shows the latents of all parts, and how much each writes where.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text to look for passages in: a file or folder, as for `interp cache`.
    html
        Page to write; it holds everything and opens offline.
    export
        Folder to write the data of an SAE to, as SAEDashboard keeps it and as Neuronpedia imports it; new or empty.
    explanations
        Folder of `interp sae explain`, whose sentences and scores the page shows.
    latents
        Numbers, such as 0,5,9, or of several parts 0/5,2/9; by default those with --explanations, else as many as
        --max-latents, spread over how dense they are.
    max_latents
        How many to choose where --latents does not; a page of 500 has two or three megabytes.
    examples
        Passages a latent.
    facets
        Also the different reasons for which each latent fires, clusters of its contexts; seconds a latent.
    tokens
        How many to read.
    """
    if html is None and export is None:
        raise ValueError("give --html, a page, or --export, a folder for SAEDashboard's and Neuronpedia's files")
    if facets and html is None:
        raise ValueError("--facets are shown on a page: give --html too")
    if export is not None and export.exists() and any(export.iterdir()):
        raise ValueError(f"{export} is not empty; choose a new folder")
    chosen = None if latents is None else [_number(word, latents) for word in latents.split(",")]

    from interp.files.differences import check_same
    from saes.commands.inputs import open_inputs
    from saes.explanations.findings import read_notes, sae_of
    from saes.features.book import FeatureBook, look_up
    from saes.features.examples import Text
    from saes.features.exports import Names, dashboard_batch, write_exports
    from saes.features.page import token_texts, write_feature_page
    from saes.features.parts import look_up_parts
    from saes.own_sites import own_sites
    from saes.places.dictionary import parts_of
    from saes.places.files import load_any
    from saes.publishing.identity import identity_of
    from saes.sae import SAE
    from saes.sets import DictionarySet

    clusters = ""
    if facets:
        from saes.features.facets import MOST_CONTEXTS

        clusters = f"; up to {MOST_CONTEXTS} contexts of each latent shown are clustered, and compared with noise"
    notes = None if explanations is None else read_notes(explanations)
    if notes and chosen is None:
        chosen = [(None, latent) for latent in sorted(notes)]
    with open_inputs(sae, data=data, tokens=tokens, options=options, load=load_any) as inputs:
        loaded, model = inputs.loaded, inputs.model
        assert not isinstance(loaded, DictionarySet)
        if export is not None and not isinstance(loaded, SAE):
            raise ValueError(f"--export is for SAEs of one site; {sae} is a {loaded.layout.kind}: take --html alone")
        if explanations is not None:
            if not isinstance(loaded, SAE):
                raise ValueError(f"--explanations are of SAEs of one site; {sae} is a {loaded.layout.kind}")
            check_same(sae_of(explanations), identity_of(loaded), where=explanations)
        parts = 0 if isinstance(loaded, SAE) else len(loaded.parts)
        pairs = None if chosen is None else [_placed(pair, parts, latents) for pair in chosen]
        about: dict[str, Any] = {"model": model, "rows": inputs.rows, "max_tokens": tokens}
        about |= {"first_position": inputs.first_position, "drop_tokens": inputs.drop_tokens}
        how: dict[str, Any] = {"max_latents": max_latents, "examples": examples, "facets": facets}
        text_of = token_texts(model.tokenizer)
        latent_count = sum(part.d_sae for part in parts_of(loaded))
        say_plan(
            f"{latent_count:,} latents counted, and then examples looked for, in {inputs.planned(tokens)}{clusters}"
        )
        books: tuple[FeatureBook, ...]
        if isinstance(loaded, SAE):
            numbers = None if pairs is None else [latent for _, latent in pairs]
            text = Text(site=own_sites(loaded, model=model, name=str(sae))[0], **about)
            books, kind = (look_up(loaded, text, latents=numbers, **how),), "SAE"
            if export is not None:
                sae_set = f"{sae.name.removesuffix('.pt')}-deepfield"
                names = Names(model=Path(inputs.model_name).name, sae_set=sae_set, dataset=data.name)
                batch = dashboard_batch(loaded, text, books[0], names, text_of=text_of)
                written = write_exports(books[0], batch, names, export)
        else:
            books, kind = look_up_parts(loaded, Text(site=(), **about), latents=pairs, **how), loaded.layout.kind
        if html is not None:
            title = f"Latents of {sae.name}, {loaded.activation.name} {kind} on {inputs.model_name}"
            html = write_feature_page(books, html, title=title, data=str(data), text_of=text_of, notes=notes)
    shown = [f"{part}/{latent}" if parts else latent for part, book in enumerate(books) for latent in book.latents]
    answer({"html": html, "export": export, "latents": shown})
    if export is not None:
        print(f"{len(shown):,} latents for SAEDashboard in {written[0]}, for Neuronpedia in {written[1]}")
    if html is not None:
        print(f"{len(shown):,} latents in {html}: open it in a browser.")


def _placed(pair: tuple[int | None, int], parts: int, latents: str | None) -> tuple[int, int]:
    """With the part, which may be left out where there is one; an SAE has none."""
    part, latent = pair
    if part is not None and not parts:
        raise ValueError(f"--latents {latents}: an SAE has no parts; give the number alone, such as {latent}")
    if part is None and parts > 1:
        raise ValueError(f"--latents {latents}: there are {parts} parts; give the part of each, such as 0/{latent}")
    return part or 0, latent


def _number(word: str, latents: str | None) -> tuple[int | None, int]:
    """Of the part, where one is given, and of the latent."""
    try:
        part, slash, number = word.rpartition("/")
        return int(part) if slash else None, int(number)
    except ValueError:
        raise ValueError(
            f"--latents {latents}: numbers with commas between them are wanted, such as 0,5,9, or of several parts"
            " 0/5,2/9"
        ) from None
