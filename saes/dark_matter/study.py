"""The whole study of a family of SAEs on one store: every experiment of the paper that the store and the SAEs allow."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.models.bridge import Model
from interp.sites.site import Site
from interp.store.activation_store import ActivationStore
from interp.terminal.progress import counted
from interp.tokens.token_rows import TokenRows
from saes.conditions import conditions_of
from saes.dark_matter.definitions import DEFINITIONS
from saes.dark_matter.experiments.components import ComponentPrediction, component_prediction
from saes.dark_matter.experiments.downstream import Downstream, downstream
from saes.dark_matter.experiments.error_saes import ErrorSAEs, train_on_error
from saes.dark_matter.experiments.norm_prediction import VECTORS, NormPrediction, norm_prediction
from saes.dark_matter.experiments.power_law import Horizon, fit_power_law, horizon
from saes.dark_matter.experiments.token_losses import token_losses
from saes.dark_matter.experiments.token_scaling import TokenScaling, token_scaling
from saes.dark_matter.matching import check_same_activations, trained_on_same_text
from saes.dark_matter.settings import Settings
from saes.dark_matter.split.decomposition import ErrorSplit, split_error
from saes.dark_matter.split.kept_tokens import KeptTokens, keep_tokens
from saes.dark_matter.split.least_squares import LinearMap
from saes.dark_matter.split.reconstructions import RowsOfSAE
from saes.sae import SAE

logger = logging.getLogger(__name__)

SAME_L0 = 0.2
"""SAEs count as of one L0 where theirs differ by at most this share (the paper flags more)."""


@dataclass(frozen=True, kw_only=True)
class SAEStudy:
    """One SAE; None is what was not asked for or is not possible."""

    name: str
    """What the SAE is called in tables and figures."""
    d_sae: int
    """How many latents the SAE has."""
    split: ErrorSplit
    """Its error in a linear and a nonlinear part."""
    norms: NormPrediction
    """How well norms of the parts follow from x."""
    pursuit: ErrorSplit | None
    """By gradient pursuit, on fewer tokens."""
    pursuit_encoder: ErrorSplit | None
    """By the encoder, on the same tokens."""
    downstream: Downstream | None
    """What each part costs the model."""
    components: ComponentPrediction | None
    """The part of the error that earlier components predict."""
    error_saes: ErrorSAEs | None
    """SAEs that were trained on the parts of the error."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """All of it."""

    site: str
    """Site that all of the SAEs reconstruct."""
    store: str
    """Folder of the activations that were used."""
    model: str | None
    """Name of the model; None where its loss was not measured."""
    tokens: int
    """How many tokens were used."""
    documents: int
    """How many documents these tokens are of."""
    settings: Settings
    """How all of it was measured."""
    warnings: tuple[str, ...]
    """What a reader of the figures has to know."""
    saes: tuple[SAEStudy, ...]
    """The figures of each SAE, in the order given."""
    horizons: tuple[Horizon, ...]
    """One for each group of three or more widths at about the same L0."""
    token_scaling: Mapping[str, TokenScaling]
    """``smaller -> larger``, of SAEs of different width at about the same L0."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, without what is of every token; numbers that are not finite become None."""
        return {"definitions": DEFINITIONS, **_plain(self)}


@dataclass(frozen=True, kw_only=True)
class _Text:
    """What the loss is measured on."""

    model: Model
    rows: TokenRows
    max_rows: int


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all SAEs of a study share."""

    site: Site
    kept: KeptTokens
    kept_for_pursuit: KeptTokens | None
    text: _Text | None
    loss: Tensor | None
    components: Mapping[str, tuple[SAE, Site]]
    out: Path
    settings: Settings
    progress: bool


def study(
    saes: Mapping[str, SAE],
    store: ActivationStore,
    out: Path,
    *,
    settings: Settings | None = None,
    components: Mapping[str, SAE] | None = None,
    model: Model = None,
    rows: TokenRows | None = None,
    progress: bool = False,
) -> Study:
    """Measure every SAE, then the family.

    Args:
        saes: By name; all of one site.
        store: With activations of that site, and of the components' sites.
        out: Folder for SAEs that are trained on errors.
        settings: How much of everything.
        components: SAEs of earlier sites, by name.
        model: For what the loss has to do with.
        rows: The text that the store was made from, for the same.
        progress: Say which SAE is measured, and show a bar while SAEs are trained.

    Raises:
        ValueError: an SAE that is not of this store, SAEs of several sites, too few tokens, values that are not finite.
    """
    settings, as_trained = _as_trained(settings or Settings(), saes, rows)
    site = _common_site(saes, store, settings.site)
    earlier = {name: (sae, check_same_activations(sae, store, name=name)) for name, sae in (components or {}).items()}

    def keep(tokens: int) -> KeptTokens:
        return keep_tokens(
            store,
            site,
            max_tokens=min(tokens, settings.tokens),
            drop_first=settings.drop_first or 0,
            drop_norm_above=settings.drop_norm_above,
            drop_special=bool(settings.drop_special),
            special_ids=rows.info["special_ids"] if rows is not None else (),
        )

    kept = keep(settings.tokens)
    text = None
    if model is not None and rows is not None and settings.downstream:
        text = _Text(model=model, rows=rows, max_rows=max(1, settings.downstream_tokens // rows.ids.shape[1]))
    job = _Job(
        site=site,
        kept=kept,
        kept_for_pursuit=keep(settings.pursuit_tokens) if settings.pursuit else None,
        text=text,
        loss=token_losses(text.model, text.rows, kept, max_rows=text.max_rows) if text else None,
        components=earlier,
        out=out,
        settings=settings,
        progress=progress,
    )
    measured: list[SAEStudy] = []
    for name, sae in counted(list(saes.items()), "study SAEs", unit="SAEs"):
        logger.info("measuring %s, %d of %d", name, len(measured) + 1, len(saes))
        measured.append(_measure(name, sae, job))
    groups = of_one_l0(measured)
    same_text = ", ".join(name for name, sae in saes.items() if trained_on_same_text(sae, store))
    seen = (f"trained on this text, so that the error is smaller than elsewhere: {same_text}",) if same_text else ()
    return Study(
        site=str(site),
        store=str(store.path),
        model=store.provenance.get("model"),
        tokens=len(kept),
        documents=len(kept.documents.unique()),
        settings=settings,
        warnings=(*kept.warnings, *as_trained, *seen),
        saes=tuple(measured),
        horizons=tuple(_horizon(group) for group in groups if len({one.d_sae for one in group}) >= 3),
        token_scaling={
            f"{small.name} -> {large.name}": _token_scaling(small, large, kept, settings)
            for group in groups
            for small in group
            for large in group
            if small.d_sae < large.d_sae
        },
    )


def of_one_l0(measured: Sequence[SAEStudy]) -> list[list[SAEStudy]]:
    """SAEs in groups of about the same L0, each in order of width; an L0 that is not known is a group of its own."""
    groups: list[list[SAEStudy]] = []
    for one in sorted(measured, key=lambda one: one.split.l0.value if one.split.l0 else math.inf):
        first = groups[-1][0].split.l0 if groups else None
        if first and one.split.l0 and one.split.l0.value <= (1 + SAME_L0) * first.value:
            groups[-1].append(one)
        else:
            groups.append([one])
    return [sorted(group, key=lambda one: one.d_sae) for group in groups]


def _measure(name: str, sae: SAE, job: _Job) -> SAEStudy:
    site, kept, settings, fewer, text = job.site, job.kept, job.settings, job.kept_for_pursuit, job.text
    rows = RowsOfSAE.by_encoder(kept, sae, site)
    split = _split(rows, settings, loss=job.loss)
    return SAEStudy(
        name=name,
        d_sae=sae.d_sae,
        split=split,
        norms=norm_prediction(rows, split, seed=settings.seed),
        pursuit=_split(RowsOfSAE.by_pursuit(fewer, sae, site), settings) if fewer else None,
        pursuit_encoder=_split(RowsOfSAE.by_encoder(fewer, sae, site), settings) if fewer else None,
        downstream=downstream(
            text.model,
            text.rows,
            sae,
            site,
            split.probe,
            held_documents=kept.documents[split.held].unique(),
            max_rows=text.max_rows,
            first_position=max(settings.drop_first or 0, int(kept.store.provenance.get("drop_first") or 0)),
            clean_ids=text.rows.info["special_ids"]
            if settings.drop_special or kept.store.provenance.get("drop_special")
            else (),
            massive_norm=kept.norm_limit,
        )
        if text
        else None,
        components=component_prediction(rows, split, job.components, seed=settings.seed) if job.components else None,
        error_saes=train_on_error(
            rows,
            split,
            job.out / "error_saes" / name,
            d_sae=settings.error_d_sae,
            k=settings.error_k,
            tokens=settings.error_tokens,
            seeds=range(settings.error_seeds),
            progress=job.progress,
        )
        if settings.train_on_error
        else None,
    )


def _split(rows: RowsOfSAE, settings: Settings, *, loss: Tensor | None = None) -> ErrorSplit:
    return split_error(
        rows,
        fit_intercept=settings.fit_intercept,
        ridges=settings.ridges,
        split_by=settings.split_by,
        train_fraction=settings.train_fraction,
        seed=settings.seed,
        tokens=rows.kept.ids,
        positions=rows.kept.positions,
        loss=loss,
    )


def _as_trained(
    settings: Settings, saes: Mapping[str, SAE], rows: TokenRows | None
) -> tuple[Settings, tuple[str, ...]]:
    """Settings without what nobody chose: tokens that the SAEs were not trained on are left out; and that in words."""
    said = [conditions_of(sae.provenance) for sae in saes.values()]
    first = max((each.first_position or 0 for each in said), default=0)
    special = rows is not None and bool(rows.info["special_ids"]) and any(each.drop_special for each in said)
    told = []
    if settings.drop_first is None and first:
        told.append(f"positions before {first} are left out, as in the SAEs' training (drop_first)")
    if settings.drop_special is None and special:
        told.append("special tokens are left out, as in the SAEs' training (drop_special)")
    drop_first = first if settings.drop_first is None else settings.drop_first
    drop_special = special if settings.drop_special is None else settings.drop_special
    return replace(settings, drop_first=drop_first, drop_special=drop_special), tuple(told)


def _common_site(saes: Mapping[str, SAE], store: ActivationStore, site: str | None) -> Site:
    sites = {name: check_same_activations(sae, store, name=name, site=site) for name, sae in saes.items()}
    if len(set(sites.values())) != 1:
        listed = ", ".join(f"{name} of {place}" for name, place in sites.items())
        raise ValueError(f"the SAEs of one study are of one site; got {listed or 'none'}")
    return next(iter(sites.values()))


def _horizon(group: Sequence[SAEStudy]) -> Horizon:
    widths, fvu = [one.d_sae for one in group], [one.split.fvu for one in group]
    law = fit_power_law(widths, [e.value for e in fvu], standard_errors=[e.standard_error for e in fvu])
    return horizon(law, widths, [one.split.fvu_nonlinear.value for one in group])


def _token_scaling(small: SAEStudy, large: SAEStudy, kept: KeptTokens, settings: Settings) -> TokenScaling:
    norms = {name: small.norms.squared_norms[:, VECTORS.index(name)].sqrt() for name in ("error", "nonlinear")}
    return token_scaling(
        norms["error"],
        norms["nonlinear"],
        large.norms.squared_norms[:, VECTORS.index("error")].sqrt(),
        held=small.split.held,
        documents=kept.documents,
        seed=settings.seed,
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: _plain(v) for name, v in found.items() if not isinstance(v, Tensor | LinearMap)}
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
