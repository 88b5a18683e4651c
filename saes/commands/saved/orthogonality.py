"""``interp sae orthogonality``: dictionaries of several tools, ranked by how nearly orthogonal they are."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from interp.commands.options import OutFile
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.mode import say_plan
from saes.commands.options import MeasuredText


def orthogonality(
    *saes: str,
    data: Path | None = None,
    text: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 20_000,
    save: OutFile | None = None,
    html: OutFile | None = None,
) -> None:
    """Rank SAEs by epsilon_LBO, with their norms, their ZF plots and the cosines of their decoder rows.

    Those of one model, trained on the same kind of rows, share one run of it; nothing is spliced.

    Parameters
    ----------
    saes
        Folders of SAEs or transcoders of any format, folders of several, hub ids, or release/id names.
    data
        Text that they were not trained on; without it only the decoders are compared.
    tokens
        How many to read.
    save
        JSON file for the figures.
    html
        Page that shows them; it is one file and opens offline.
    """
    from collections import defaultdict
    from dataclasses import replace

    from rich.console import Console

    from interp.files.writing import write_json
    from saes.commands.inputs import open_inputs
    from saes.conditions import Conditions, conditions_of
    from saes.orthogonality import measure_norms, row_overlap
    from saes.orthogonality.ranking import LEGEND, Entry, build_page, ranked, table, verdict
    from saes.sae import SAE
    from saes.same_model import said_model
    from saes.sets import DictionarySet, members_in

    if not saes:
        raise ValueError("name SAEs to compare: folders, hub ids, or release/id names")
    places = [path for name in saes for path in ([*map(str, members_in(Path(name)))] or [name])]
    if len(set(places)) != len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"{twice} is named twice; name each dictionary once")
    reading = "their decoders alone" if data is None else f"{tokens:,} tokens of {data} a model"
    say_plan(f"{len(places)} dictionaries, {reading}; all pairs of decoder rows are compared")
    loaded = {name: SAE.load(name, site=text.site, target_site=text.target_site) for name in places}
    overlaps = {name: row_overlap(sae.W_dec) for name, sae in loaded.items()}
    models: dict[str, str] = {}
    norms: dict[str, Any] = {}
    groups: dict[Any, list[str]] = defaultdict(list)
    # What options say, and what is only printed, tells no rows apart.
    unsaid: dict[str, Any] = {"dtype": None, "notes": ()}
    unsaid |= {name: None for name, value in vars(text).items() if value is not None and hasattr(Conditions, name)}
    for name, sae in loaded.items():
        said = replace(conditions_of(sae.provenance), **unsaid)
        revision = text.revision or sae.provenance.get("source", {}).get("revision")
        groups[text.model or said_model(sae), revision, said].append(name)
    for names in groups.values() if data is not None else ():
        assert data is not None
        members = DictionarySet([loaded[name] for name in names], names)
        with open_inputs(
            ", ".join(names), data=data, tokens=tokens, options=text, load=lambda *_, m=members, **__: m
        ) as inputs:
            found = measure_norms(
                list(members),
                [overlaps[name] for name in members.names],
                inputs.model,
                inputs.rows,
                names=members.names,
                max_tokens=tokens,
                first_position=inputs.first_position,
                drop_tokens=inputs.drop_tokens,
            )
            norms |= dict(zip(members.names, found, strict=True))
            models |= dict.fromkeys(members.names, inputs.model_name)
    entries = ranked(
        [
            Entry(
                name=name,
                tool=sae.provenance.get("imported", {}).get("format", "deepfield"),
                model=models.get(name),
                d_sae=sae.d_sae,
                overlap=overlaps[name],
                norms=norms.get(name),
            )
            for name, sae in loaded.items()
        ]
    )
    console = Console(highlight=False)
    console.print(verdict(entries), markup=False)
    console.print(table(entries))
    console.print(LEGEND, markup=False)
    figures = [entry.to_json() for entry in entries]
    answer({"entries": figures})
    if save is not None:
        write_json(save, {"entries": figures})
    if html is not None:
        print(f"The page is {build_page(entries, data=None if data is None else str(data)).write(html)}")
