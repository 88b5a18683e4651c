"""``interp sae features``: what single latents respond to, as a page and as data for other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from interp.commands.options import OutFile
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.mode import say_plan
from saes.commands.latents import placed, read_latents
from saes.commands.options import MeasuredText

if TYPE_CHECKING:
    from saes.places.dictionary import Dictionary
    from saes.sae import SAE


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
        Folder of `interp sae explain`, of the SAE or of a part, whose sentences and scores the page shows.
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
    if examples < 1 or max_latents < 1:
        name, value = ("--examples", examples) if examples < 1 else ("--max-latents", max_latents)
        raise ValueError(f"{name} is {value}; it must be 1 or more")
    chosen = None if latents is None else read_latents(latents)

    from interp.files.differences import check_same
    from saes.commands.inputs import open_inputs
    from saes.explanations.findings import part_of, read_notes, sae_of
    from saes.features.book import FeatureBook, look_up
    from saes.features.examples import Text
    from saes.features.exports import Names, dashboard_batch, write_exports
    from saes.features.page import token_texts, write_feature_page
    from saes.features.parts import look_up_parts
    from saes.own_sites import own_sites
    from saes.places.dictionary import parts_of
    from saes.places.files import load_any
    from saes.sae import SAE
    from saes.sets import DictionarySet

    clusters = ""
    if facets:
        from saes.features.facets import MOST_CONTEXTS

        clusters = f"; up to {MOST_CONTEXTS} contexts of each latent shown are clustered, and compared with noise"
    notes = None if explanations is None else read_notes(explanations)
    part = None if explanations is None else part_of(explanations)
    if notes and chosen is None:
        chosen = [(part, latent) for latent in sorted(notes)]
    noted: dict[Any, dict[str, Any]] | None = None
    if notes is not None:
        noted = {latent if part is None else f"{part}/{latent}": note for latent, note in notes.items()}
    with open_inputs(sae, data=data, tokens=tokens, options=options, load=load_any) as inputs:
        loaded, model = inputs.loaded, inputs.model
        assert not isinstance(loaded, DictionarySet)
        if export is not None and not isinstance(loaded, SAE):
            raise ValueError(f"--export is for SAEs of one site; {sae} is a {loaded.layout.kind}: take --html alone")
        if explanations is not None:
            check_same(sae_of(explanations), _identity(loaded, part, explanations), where=explanations)
        parts = 0 if isinstance(loaded, SAE) else len(loaded.parts)
        pairs = None if chosen is None else [placed(pair, parts, latents) for pair in chosen]
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
            html = write_feature_page(books, html, title=title, data=str(data), text_of=text_of, notes=noted)
    shown = [f"{part}/{latent}" if parts else latent for part, book in enumerate(books) for latent in book.latents]
    answer({"html": html, "export": export, "latents": shown})
    if export is not None:
        print(f"{len(shown):,} latents for SAEDashboard in {written[0]}, for Neuronpedia in {written[1]}")
    if html is not None:
        print(f"{len(shown):,} latents in {html}: open it in a browser.")


def _identity(loaded: "SAE | Dictionary", part: int | None, explanations: Path) -> dict[str, Any]:
    """Of what the explanations must be of."""
    from saes.explanations.explained import part_identity, part_number
    from saes.publishing.identity import identity_of
    from saes.sae import SAE

    if isinstance(loaded, SAE):
        return identity_of(loaded)
    if part is None:
        raise ValueError(f"{explanations} explains an SAE of one site; this is a {loaded.layout.name}")
    return part_identity(loaded, part_number(loaded, part))
