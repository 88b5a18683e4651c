"""How good is an SAE: its reconstruction, its sparsity, and what the model loses when the SAE stands in for the site.

Everything streams over the text; per token only a few numbers are kept. Standard errors are over documents, or, where
they are few, over blocks of neighbouring tokens (see ``interp.metrics``).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from interp import metrics
from interp.arguments.kinds import require
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.sites.site import Site
from interp.tokens.batches import rows_wanted
from interp.tokens.token_rows import TokenRows, require_rows
from saes.evaluation.afa_quality import AFAQuality, afa_quality
from saes.evaluation.breakdown import AtPositions, Figures, by_position, only_massive, without_massive
from saes.evaluation.token_table import Measured, Placed, measure_together
from saes.own_sites import own_sites
from saes.sae import SAE
from saes.same_model import check_same_model, name_of

DENSITY_EDGES = tuple(-6 + 0.25 * i for i in range(25))
"""Bins of log10(share of tokens on which a latent is active)."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures of one SAE on one text. Cross-entropy and KL are nats a predicted token.

    Example:
        >>> import interp, saes
        >>> [name for name in ("fvu", "l0", "ce_recovered_zero") if name in saes.Report.__dataclass_fields__]
        ['fvu', 'l0', 'ce_recovered_zero']
    """

    site: str
    """Name of the site that the SAE reads."""
    tokens: int
    """Number of tokens that are counted: no padding, none before ``first_position``."""
    documents: int
    """Number of documents that these are from."""
    d_sae: int
    """Number of latents of the SAE."""
    fvu: Estimate
    """Fraction of variance unexplained, about the mean activation of this text."""
    explained_variance: Estimate
    """1 - FVU, with the same standard error."""
    mse: Estimate
    """Squared error of a dimension, in the activation's unit squared."""
    cosine: Estimate
    """Cosine of activation and reconstruction, mean over tokens."""
    l0: Estimate
    """Number of active latents of a token, mean over tokens."""
    l0_histogram: dict[int, int]
    """Number of tokens by the number of their active latents."""
    dead_fraction: Estimate
    """Share of latents that no token of this text activates; the error is over latents."""
    density_histogram: tuple[int, ...]
    """Living latents by log10 of the share of tokens they are active on, bins ``DENSITY_EDGES``."""
    ce_clean: Estimate
    """Cross-entropy of the unchanged model."""
    ce_spliced: Estimate
    """Cross-entropy with the SAE's reconstruction in place of the activation."""
    ce_difference: Estimate
    """CE_spliced - CE_clean, taken token by token."""
    ce_zero: Estimate
    """Cross-entropy with zero in place of the activation."""
    ce_mean: Estimate
    """Cross-entropy with the mean activation of this text in its place."""
    ce_recovered_zero: Estimate
    """(CE_zero - CE_spliced) / (CE_zero - CE_clean)."""
    ce_recovered_mean: Estimate
    """(CE_mean - CE_spliced) / (CE_mean - CE_clean)."""
    kl: Estimate
    """KL(clean || spliced) of the next token's distribution."""

    afa: AFAQuality | None
    """Norm of the latents against the norm of the activation; None where no latent is active and b_dec is 0."""
    positions: tuple[AtPositions, ...]
    """The same figures by position in the row."""
    massive_norm: float
    """Tokens whose activation has a norm above it, ``MASSIVE_TIMES`` the median norm of this text, are massive."""
    without_massive: Figures
    """Massive tokens are not counted, and stay clean in the splice."""
    only_massive: Figures | None
    """Figures of massive tokens alone; None where there is none."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; a standard error that is not known becomes None."""
        return plain(asdict(self))


def evaluate(
    sae: SAE,
    model: Model,
    rows: TokenRows,
    *,
    site: str | Site | None = None,
    max_tokens: int = 100_000,
    first_position: int = 0,
    drop_tokens: Sequence[int] = (),
    batch_rows: int = 8,
) -> Report:
    """Run ``model`` over the first rows of ``rows`` with the SAE spliced in at ``site`` (by default its own).

    A transcoder reads ``site`` and is spliced in at its target site. Positions before ``first_position``, and tokens
    whose ids are in ``drop_tokens``, stay clean and are not counted, for SAEs that were not trained on them
    (``saes.conditions`` has what their files say).
    Raises ValueError where the site, its width, the device or the model that the SAE names does not fit, or where no
    text is left.

    Example:
        >>> import interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> report = saes.evaluate(sae, model, rows)
        >>> report.l0.value
        8.0
    """
    (report,) = evaluate_together(
        [sae],
        model,
        rows,
        sites=[site],
        max_tokens=max_tokens,
        first_position=first_position,
        drop_tokens=drop_tokens,
        batch_rows=batch_rows,
    )
    return report


def evaluate_together(
    saes: Sequence[SAE],
    model: Model,
    rows: TokenRows,
    *,
    sites: Sequence[str | Site | None] | None = None,
    names: Sequence[str] | None = None,
    max_tokens: int = 100_000,
    first_position: int = 0,
    drop_tokens: Sequence[int] = (),
    batch_rows: int = 8,
) -> list[Report]:
    """:func:`evaluate` of several SAEs in one pass over the text: the clean run is shared, and each report is that of
    the SAE alone. Raises as that does; ``names`` are what messages call the SAEs.

    Example:
        >>> import interp, saes
        >>> import torch
        >>> from saes.evaluation import evaluate_together
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> two = [saes.SAE(96, 192, saes.TopK(k), site="blocks.2.hook_resid_post") for k in (4, 8)]
        >>> two = [sae.initialise(seed=0, mean=torch.zeros(96)) for sae in two]
        >>> [report.l0.value for report in evaluate_together(two, model, rows)]
        [4.0, 8.0]
    """
    for sae in saes:
        require(sae, SAE, what="an SAE", fix="saes.SAE.load(folder)")
    require_rows(rows)
    names = ["this SAE"] * len(saes) if names is None else names
    device, members = next(model.parameters()).device, []
    for sae, site, name in zip(saes, [None] * len(saes) if sites is None else sites, names, strict=True):
        place, target = own_sites(sae, site, model=model, name=name)
        if sae.W_enc.device != device:
            raise ValueError(f"{name} is on {sae.W_enc.device}, the model on {device}; move it there: sae.to(...)")
        check_same_model(sae, name_of(model), name=name, stacklevel=4)
        members.append(Placed(sae=sae, site=place, target=target))
    found = measure_together(
        members,
        model,
        rows,
        count=rows_wanted(rows, max_tokens=max_tokens, first_position=first_position),
        batch_rows=batch_rows,
        first_position=first_position,
        drop_tokens=drop_tokens,
    )
    return [_report(member.sae, member.site, its) for member, its in zip(members, found, strict=True)]


def _report(sae: SAE, site: Site, found: Measured) -> Report:
    table, active = found.table, found.active
    unexplained = metrics.ratio(table.error, table.variance, groups=table.documents)
    predicting = table.where(table.predicts)

    def recovered(ablated: Tensor) -> Estimate:
        return metrics.ce_recovered(
            clean=predicting.ce_clean, spliced=predicting.ce_spliced, ablated=ablated, groups=predicting.documents
        )

    counts = torch.bincount(table.l0.long())
    density = (active[active > 0] / len(table)).log10()
    return Report(
        site=str(site),
        tokens=len(table),
        documents=len(table.documents.unique()),
        d_sae=sae.d_sae,
        fvu=unexplained,
        explained_variance=metrics.explained_variance(unexplained),
        mse=table.mean(table.error / sae.d_out),
        cosine=table.mean(table.cosine),
        l0=table.mean(table.l0),
        l0_histogram={i: int(n) for i, n in enumerate(counts) if n},
        dead_fraction=metrics.mean((active == 0).float()),
        density_histogram=tuple(int(n) for n in torch.histogram(density, torch.tensor(DENSITY_EDGES)).hist),
        ce_clean=predicting.mean(predicting.ce_clean),
        ce_spliced=predicting.mean(predicting.ce_spliced),
        ce_difference=predicting.mean(predicting.ce_spliced - predicting.ce_clean),
        ce_zero=predicting.mean(predicting.ce_zero),
        ce_mean=predicting.mean(predicting.ce_mean),
        ce_recovered_zero=recovered(predicting.ce_zero),
        ce_recovered_mean=recovered(predicting.ce_mean),
        kl=predicting.mean(predicting.kl),
        afa=afa_quality(table, d_sae=sae.d_sae),
        positions=by_position(table, d_sae=sae.d_sae),
        massive_norm=found.massive_norm,
        without_massive=without_massive(table, d_sae=sae.d_sae),
        only_massive=only_massive(table, d_sae=sae.d_sae),
    )


def plain(value: Any) -> Any:
    """For JSON: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
