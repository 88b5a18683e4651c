"""How good is a dictionary over several places: each place, each part, all together, and the model that it replaces.

Everything streams over the text. Standard errors are over documents, or, where they are few, over blocks of
neighbouring tokens (see ``interp.metrics``).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp import metrics
from interp.metrics import Estimate
from interp.sites.capturing import capture
from interp.sites.site import Site, expand_sites
from interp.terminal.progress import counted
from interp.tokens.batches import measured, row_batches, rows_wanted
from interp.tokens.token_rows import TokenRows
from saes.evaluation.replacement import replacement_logits, sites_of
from saes.evaluation.report import DENSITY_EDGES, plain
from saes.places.dictionary import Dictionary
from saes.same_model import check_same_names, name_of, said_model_of


@dataclass(frozen=True, kw_only=True)
class PlaceFigures:
    """Of one place that is written."""

    place: str
    """Name of the place that is reconstructed."""
    fvu: Estimate
    """Fraction of variance unexplained, about the mean activation of this text."""


@dataclass(frozen=True, kw_only=True)
class PartFigures:
    """Of the latents of one part."""

    reads: tuple[str, ...]
    """Names of the places that the part reads."""
    writes: tuple[str, ...]
    """Names of the places that the part writes."""
    l0: Estimate
    """Active latents of the part a token, the mean."""
    dead_fraction: Estimate
    """Share of latents that no token of this text activates; the error is over latents."""
    density_histogram: tuple[int, ...]
    """Living latents by log10 of the share of tokens they are active on, bins ``DENSITY_EDGES``."""


@dataclass(frozen=True, kw_only=True)
class ReplacementFigures:
    """The model with the reconstructions in the activations' place, against the model itself; nats a token."""

    kl: Estimate
    """KL(clean || replaced) of the next token, the mean."""
    ce: Estimate
    """Cross-entropy of the replaced model."""
    ce_difference: Estimate
    """CE replaced - CE clean, token by token."""
    top_1: Estimate
    """Share of tokens on which both predict the same next token."""


@dataclass(frozen=True, kw_only=True)
class PlacesReport:
    """Figures of one dictionary on one text.

    Example:
        >>> import interp, saes
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> report = saes.evaluation.evaluate_places(saes.embedded_transcoders(), model, rows)
        >>> report.true_stream.kl.value < report.compounding.kl.value  # errors add up through the layers
        True
        >>> report.with_error_nodes < 1e-4
        True
    """

    kind: str
    """What kind of dictionary it is, such as transcoders."""
    tokens: int
    """How many tokens were measured."""
    documents: int
    """How many documents these tokens are of."""
    d_sae: int
    """How many latents every part has."""
    fvu: Estimate
    """The mean over places of their FVU."""
    l0: Estimate
    """Active latents of a token, of all parts together."""
    dead_fraction: Estimate
    """Share of all latents that no token of this text activates."""
    places: tuple[PlaceFigures, ...]
    """Figures of each place that is written."""
    parts: tuple[PartFigures, ...]
    """Figures of the latents of each part."""
    ce_clean: Estimate
    """Cross-entropy of the model as it is, in nats a token."""
    true_stream: ReplacementFigures
    """Reconstructed from the clean model's activations."""
    compounding: ReplacementFigures | None
    """From the replaced stream; None of a crosscoder, which reads what it writes."""
    with_error_nodes: float
    """Largest difference of a logit between the model and its replacement with error nodes, over the largest logit.
    Only rounding; else the places are not where the dictionary says."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; a standard error that is not known becomes None."""
        return plain(asdict(self))


@torch.no_grad()
def evaluate_places(
    dictionary: Dictionary,
    model: Any,
    rows: TokenRows,
    *,
    max_tokens: int = 100_000,
    first_position: int = 0,
    drop_tokens: Sequence[int] = (),
    batch_rows: int = 8,
) -> PlacesReport:
    """Run ``model`` over the first rows of ``rows``, as it is and replaced.

    Positions before ``first_position``, and tokens with the ids ``drop_tokens``, stay clean and are not counted.

    Raises:
        ValueError: places that the model lacks or that are of several models, other widths, another device or model, or
            no text.

    Example:
        >>> import interp, saes
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> report = saes.evaluation.evaluate_places(saes.embedded_transcoders(), model, rows)
        >>> report.kind, len(report.places), round(report.fvu.value, 1)
        ('transcoders', 4, 0.1)
    """
    reads, writes = sites_of(dictionary)
    expand_sites(model, (*reads, *writes))
    device = next(model.parameters()).device
    if (own := dictionary.placed()[0][0].W_enc.device) != device:
        raise ValueError(f"the dictionary is on {own}, the model on {device}; move it there: dictionary.to(...)")
    check_same_names(said_model_of(dictionary.provenance), name_of(model), name="this dictionary")
    count = rows_wanted(rows, max_tokens=max_tokens, first_position=first_position)
    batches = [
        (ids, documents, measured(documents, first_position, ids=ids, drop_tokens=drop_tokens))
        for ids, documents in row_batches(rows, count, batch_rows, device=device)
    ]
    means = _means(model, batches, writes)
    columns: dict[str, list[Tensor]] = defaultdict(list)
    active = torch.zeros(len(dictionary.parts), dictionary.d_sae, dtype=torch.int64)
    modes = (False,) if dictionary.layout.kind == "crosscoder" else (False, True)
    largest = 0.0
    for ids, documents, kept in counted(batches, "evaluate", unit="batches"):
        found = capture(model, ids, [*reads, *writes], attention_mask=documents >= 0)
        xs = [found[site].to(dictionary.placed()[0][0].W_enc.dtype) for site in reads]
        latents = dictionary.encode(xs)
        values: dict[str, Tensor] = {"documents": documents, "predicts": functional.pad(kept[:, 1:], (0, 1))}
        for number, (site, x_hat) in enumerate(zip(writes, dictionary.decode(latents, xs), strict=True)):
            z = found[site].float()
            values[f"error{number}"] = (z - x_hat).square().sum(-1)
            values[f"variance{number}"] = (z - means[number]).square().sum(-1)
        for number, its in enumerate(latents):
            values[f"l0{number}"] = its.l0.float()
            chosen = its.indices[(its.values != 0) & kept[..., None]]
            active[number] += torch.bincount(chosen, minlength=dictionary.d_sae).cpu()
        clean = model(ids)
        values["ce_clean"] = _loss(clean, ids)
        for compounding in modes:
            logits = replacement_logits(dictionary, model, ids, found, where=kept, compounding=compounding)
            values[f"kl{compounding}"] = metrics.kl(clean, logits)
            values[f"ce{compounding}"] = _loss(logits, ids)
            values[f"top{compounding}"] = (clean.argmax(-1) == logits.argmax(-1)).float()
        exact = replacement_logits(dictionary, model, ids, found, where=kept, compounding=modes[-1], errors=True)
        # Behind padding nothing is asked: rows are run as they are, captured with their padding masked.
        real = documents >= 0
        largest = max(largest, float((exact - clean)[real].abs().max() / clean[real].abs().max()))
        for name, value in values.items():
            columns[name].append(value[kept].cpu())
    return _report(dictionary, {name: torch.cat(parts) for name, parts in columns.items()}, active, modes, largest)


def _means(
    model: Any, batches: Sequence[tuple[Tensor, Tensor, Tensor]], writes: Sequence[Site]
) -> list[Float[Tensor, " d"]]:
    sums: list[Any] = [0.0] * len(writes)
    n = 0
    for ids, documents, kept in batches:
        found = capture(model, ids, writes, attention_mask=documents >= 0)
        n += int(kept.sum())
        sums = [total + found[site][kept].double().sum(0) for total, site in zip(sums, writes, strict=True)]
    return [(total / n).float() for total in sums]


def _loss(logits: Float[Tensor, "batch position vocab"], ids: Int[Tensor, "batch position"]) -> Tensor:
    """At the position before the token that it is about."""
    return functional.pad(metrics.cross_entropy(logits, ids), (0, 1))


def _report(
    dictionary: Dictionary,
    table: dict[str, Tensor],
    active: Int[Tensor, "parts d_sae"],
    modes: tuple[bool, ...],
    largest: float,
) -> PlacesReport:
    documents, predicts = table["documents"], table["predicts"].bool()
    layout, places = dictionary.layout, range(len(dictionary.layout.writes))
    # Of each token the mean over places of its share of a place's whole variance: sums of these are means of FVUs.
    weights = [1 / table[f"variance{i}"].double().mean() for i in places]

    def together(name: str) -> Float[Tensor, " n"]:
        return torch.stack([table[f"{name}{i}"].double() * weights[i] for i in places]).sum(0)

    def mean(values: Tensor, where: Bool[Tensor, " n"] | None = None) -> Estimate:
        if where is None:
            return metrics.mean(values, groups=documents)
        return metrics.mean(values[where], groups=documents[where])

    def replacement(mode: bool) -> ReplacementFigures:
        return ReplacementFigures(
            kl=mean(table[f"kl{mode}"], predicts),
            ce=mean(table[f"ce{mode}"], predicts),
            ce_difference=mean(table[f"ce{mode}"] - table["ce_clean"], predicts),
            top_1=mean(table[f"top{mode}"], predicts),
        )

    return PlacesReport(
        kind=layout.name,
        tokens=len(documents),
        documents=len(documents.unique()),
        d_sae=dictionary.d_sae,
        fvu=metrics.ratio(together("error"), together("variance"), groups=documents),
        l0=mean(torch.stack([table[f"l0{i}"] for i in range(len(active))]).sum(0)),
        dead_fraction=metrics.mean((active.flatten() == 0).float()),
        places=tuple(
            PlaceFigures(place=place, fvu=metrics.ratio(table[f"error{i}"], table[f"variance{i}"], groups=documents))
            for i, place in enumerate(layout.writes)
        ),
        parts=tuple(
            PartFigures(
                reads=tuple(layout.reads[i] for i in part.reads),
                writes=tuple(layout.writes[i] for i in part.writes),
                l0=mean(table[f"l0{number}"]),
                dead_fraction=metrics.mean((its == 0).float()),
                density_histogram=density_histogram(its, len(documents)),
            )
            for number, (part, its) in enumerate(zip(layout.parts, active, strict=True))
        ),
        ce_clean=mean(table["ce_clean"], predicts),
        true_stream=replacement(False),
        compounding=replacement(True) if True in modes else None,
        with_error_nodes=largest,
    )


def density_histogram(active: Int[Tensor, " d_sae"], tokens: int) -> tuple[int, ...]:
    """Living latents by log10 of the share of tokens they are active on."""
    density = (active[active > 0] / tokens).log10()
    return tuple(int(n) for n in torch.histogram(density, torch.tensor(DENSITY_EDGES)).hist)
