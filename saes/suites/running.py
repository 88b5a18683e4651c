"""Several evaluations of one SAE: which sets of texts they take, and their figures side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.arguments.extras import extra
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.sites.site import Site
from interp.terminal.progress import counted
from saes.sae import SAE
from saes.suites.absorbing import absorption
from saes.suites.disentangling import Swapped, ravel
from saes.suites.probing import KS, probe_sparsely
from saes.suites.scr import remove_spurious
from saes.suites.texts.built_in import BUILT_IN, built_in
from saes.suites.texts.entities import AskedModel, Entities, cities, read_entities
from saes.suites.texts.examples import Examples, examples_from_texts
from saes.suites.texts.labelled import PUBLIC, LabelledTexts, Position, from_hub, read_labelled
from saes.suites.tpp import perturb_targets

SETS = {
    "probing": ("number", "names", "books", "authors"),
    "absorption": ("names",),
    "scr": ("who_where",),
    "tpp": ("authors",),
    "ravel": ("cities",),
}
"""Sets of our own that each evaluation takes where none is named."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of one evaluation on one set."""

    suite: str
    """Name of the evaluation, as in :data:`SETS`."""
    of: str
    """Name of the set of texts or entities."""
    figure: str
    """What the number is."""
    value: Estimate
    """The number with its error, n units."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An evaluation that would have meant nothing."""

    suite: str
    """Name of the evaluation."""
    of: str
    """Name of the set of texts or entities."""
    reason: str
    """What is missing, and what can be done."""


@dataclass(frozen=True, kw_only=True)
class Suites:
    """What several evaluations found."""

    figures: tuple[Figure, ...]
    """All figures, in the order in which they were asked for."""
    refused: tuple[Refused, ...]
    """Evaluations that the model, or the SAE, does not bear."""
    details: dict[str, Any]
    """``suite, set`` -> everything that the evaluation returned."""


def parse_suites(text: str) -> tuple[str, ...]:
    """Names with commas between, ``all`` for every one. Raises ValueError for others, MissingExtra where what all but
    ``core`` need is not installed.

    Example:
        >>> from saes.suites.running import parse_suites
        >>> parse_suites("core,scr")
        ('core', 'scr')
    """
    every = ("core", *SETS)
    names = every if text.strip() == "all" else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [name for name in names if name not in every]:
        raise ValueError(f"{unknown[0]!r} is no evaluation; --suite takes {', '.join(every)}, with commas, or all")
    if set(names) - {"core"}:
        with extra("sklearn", f"--suite {text}"):
            import sklearn  # noqa: F401  (before a model is loaded)
    return names


def labelled_by_name(name: str, tokenizer: Any, *, position: Position) -> LabelledTexts:
    """A set of our own, a public one, or a JSONL file. Raises ValueError where it is none of them."""
    if name in BUILT_IN:
        return built_in(name, tokenizer)
    if name in PUBLIC:
        return from_hub(name, position=position)
    if not Path(name).is_file():
        raise ValueError(
            f"{name!r} is no file of labelled texts, and no set's name; there are {', '.join((*BUILT_IN, *PUBLIC))}"
        )
    return read_labelled(name, position=position)


def run_suites(
    sae: SAE,
    model: Model,
    site: Site,
    suites: Sequence[str],
    *,
    labelled: str | None = None,
    position: Position = "mean",
    entities: str | Path | None = None,
    bos: str = "model",
    context: int | None = None,
    first_position: int = 0,
    drop_tokens: Sequence[int] = (),
    seed: int = 0,
) -> Suites:
    """Run the evaluations ``suites``, of :data:`SETS`.

    Args:
        labelled: a set of texts, by name or as a file, in place of those that each evaluation takes by itself.
        position: of a file of texts, which tokens stand for one.
        entities: a JSON file, in place of the cities.
        bos: as for :func:`interp.tokens.write_token_rows`.
        context: most tokens of a text.
        first_position: earlier positions are not part of a mean.
        drop_tokens: ids of tokens that are not part of a mean.
        seed: of what is held out.

    What an evaluation refuses is listed with its reason. Raises ValueError where all are refused, and for names that
    are not there.
    """
    tokenizer = model.tokenizer
    wanted = [(suite, name) for suite in suites for name in _sets(suite, labelled, entities)]
    texts: dict[str, LabelledTexts] = {}
    for suite, name in wanted:
        if suite != "ravel" and name not in texts:
            texts[name] = labelled_by_name(name, tokenizer, position=position)
    asked = None if entities is None else read_entities(entities)
    read: dict[str, Examples] = {}
    figures: list[Figure] = []
    refused: list[Refused] = []
    details: dict[str, Any] = {}
    for suite, name in counted(wanted, "evaluations", unit="evaluations"):
        of = texts[name].name if name in texts else name
        try:
            if suite == "ravel":
                found, values = _ravel(sae, model, site, asked or cities(), bos=bos, seed=seed)
            else:
                if name not in read:
                    read[name] = examples_from_texts(
                        sae,
                        model,
                        texts[name],
                        site,
                        bos=bos,
                        context=context,
                        first_position=first_position,
                        drop_tokens=drop_tokens,
                    )
                found, values = _on_texts(suite, sae, read[name], texts[name], seed=seed)
        except ValueError as error:
            refused.append(Refused(suite=suite, of=of, reason=str(error)))
            continue
        details[f"{suite}, {of}"] = found
        figures += [Figure(suite=suite, of=of, figure=label, value=value) for label, value in values]
    if not figures:
        raise ValueError("; ".join(one.reason for one in refused))
    return Suites(figures=tuple(figures), refused=tuple(refused), details=details)


def _sets(suite: str, labelled: str | None, entities: str | Path | None) -> tuple[str, ...]:
    if suite not in SETS:
        raise ValueError(f"{suite!r} is no evaluation here; there are {', '.join(SETS)}")
    if suite == "ravel":
        return SETS[suite] if entities is None else (Path(entities).stem,)
    return SETS[suite] if labelled is None else (labelled,)


def _on_texts(
    suite: str, sae: SAE, examples: Examples, texts: LabelledTexts, *, seed: int
) -> tuple[Any, list[tuple[str, Estimate]]]:
    """What an evaluation returns, and its figures."""
    if suite == "probing":
        probing = probe_sparsely(examples, texts, ks=[k for k in KS if k <= sae.d_sae], seed=seed)
        pooled = probing.pooled
        values = [("majority", pooled.majority), ("whole activation", pooled.dense)]
        values += [(f"latents, k = {one.k}", one.accuracy) for one in pooled.sparse]
        return probing, values + [(f"dimensions, k = {one.k}", one.dimensions) for one in pooled.sparse]
    if suite == "absorption":
        absorbed, centred = (absorption(sae, examples, texts, centred=each, seed=seed) for each in (False, True))
        values = [("absorption fraction", absorbed.fraction), ("full absorption", absorbed.full)]
        values += [("fraction, from b_dec", centred.fraction), ("full, from b_dec", centred.full)]
        return {"from zero": absorbed, "from b_dec": centred}, values
    if suite == "scr":
        removal = remove_spurious(sae, examples, texts, seed=seed)
        chosen = removal.directions[removal.chosen]
        values = [("clean probe", chosen.clean), ("biased probe", chosen.biased)]
        return removal, values + [(f"SCR, {one.n_latents} latents", one.scr) for one in removal.by_count]
    targeted = perturb_targets(sae, examples, texts, seed=seed)
    return targeted, [(f"TPP, {one.n_latents} latents", one.tpp) for one in targeted.by_count]


def _ravel(
    sae: SAE, model: Model, site: Site, entities: Entities, *, bos: str, seed: int
) -> tuple[Any, list[tuple[str, Estimate]]]:
    has_bos = bos in ("row", "document") and model.tokenizer.bos_token_id is not None
    found = ravel(sae, AskedModel(model=model, site=site, entities=entities, bos=has_bos), seed=seed)

    def of(scores: Swapped) -> list[Estimate]:
        return [scores.cause, scores.isolation, scores.disentangle]

    labels = ("cause", "isolation", "disentangle")
    whole = [f"{label}, whole activation" for label in labels]
    return found, list(zip((*labels, *whole), (*of(found.scores), *of(found.whole)), strict=True))
