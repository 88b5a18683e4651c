"""Norms of latents against norms of activations, of several dictionaries of one model, which is run once.

Beside the figures of ``saes.evaluation.afa_quality`` stands what orthogonality alone would give. With unit rows d_i and
scaled latents v, ||sum v_i d_i||^2 = sum v_i^2 + sum over i != j of v_i v_j <d_i, d_j>. Were the same values on latents
drawn at random, the mean of the second sum would be (sum v)^2 - sum v^2 times the rows' mean cosine: a closed form. How
far the measured norm is above it is what latents that are active together share.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.sites.capturing import capture
from interp.terminal.progress import counted
from interp.tokens.batches import measured, row_batches, rows_wanted
from interp.tokens.token_rows import TokenRows
from saes.evaluation.afa_quality import AFAQuality, afa_quality
from saes.evaluation.token_table import NormTable, norms
from saes.latents import Latents
from saes.orthogonality.decoder_rows import RowOverlap
from saes.own_sites import own_sites
from saes.sae import SAE
from saes.same_model import check_same_model, name_of


@dataclass(frozen=True, kw_only=True)
class NormFigures:
    """Of one dictionary on one text; errors over documents."""

    site: str
    """Name of the site that it reads."""
    tokens: int
    """How many tokens were measured."""
    documents: int
    """How many documents these tokens are of."""
    l0: Estimate
    """Active latents of a token, the mean."""
    afa: AFAQuality | None
    """epsilon_LBO, norm ratio and ZF plot; None where no token has a feature."""
    written_ratio: Estimate | None
    """sqrt of the mean ||D f||^2 over the mean ||f||^2, both without b_dec: 1 where active rows are orthogonal."""
    random_ratio: Estimate | None
    """The same in closed form for these values on latents drawn at random."""
    gap: Estimate | None
    """epsilon_LBO times d_sae - 1, the mean of | ||z||^2 - ||f||^2 | / ||f||^2: no number of latents divides it."""


@dataclass(frozen=True, kw_only=True)
class _Columns(NormTable):
    """And what the closed form asks for."""

    values_squared: Float[Tensor, " n"]
    """Squared norm of the scaled latents without b_dec."""
    written_squared: Float[Tensor, " n"]
    """Squared norm of what they write."""
    random_squared: Float[Tensor, " n"]
    """Its mean over all choices of as many latents for the same values."""


@torch.no_grad()
def measure_norms(
    saes: Sequence[SAE],
    overlaps: Sequence[RowOverlap],
    model: Model,
    rows: TokenRows,
    *,
    names: Sequence[str] | None = None,
    max_tokens: int = 100_000,
    first_position: int = 0,
    drop_tokens: Sequence[int] = (),
    batch_rows: int = 8,
) -> list[NormFigures]:
    """Figures of each SAE from one run of the model over the text, which nothing is spliced into.

    Args:
        saes: SAEs or transcoders of this model, on its device.
        overlaps: of each, :func:`saes.orthogonality.row_overlap` of its ``W_dec``.
        model: whose activations they read.
        rows: text; ``max_tokens`` of it are read.
        names: what messages call the SAEs.
        max_tokens: how many tokens to read.
        first_position: earlier positions of a row are not counted.
        drop_tokens: tokens of these ids are not counted.
        batch_rows: rows in a batch.

    Raises:
        ValueError: a site that is not known or of another width, another model, or no text that is left.

    Example:
        >>> import interp, saes, torch
        >>> from saes.orthogonality import measure_norms, row_overlap
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> (found,) = measure_norms([sae], [row_overlap(sae.W_dec)], model, rows)
        >>> found.l0.value
        8.0
    """
    names = ["this SAE"] * len(saes) if names is None else names
    places = []
    for sae, name in zip(saes, names, strict=True):
        check_same_model(sae, name_of(model), name=name)
        places.append(own_sites(sae, model=model, name=name))
    sites = list(dict.fromkeys(site for pair in places for site in pair))
    count = rows_wanted(rows, max_tokens=max_tokens, first_position=first_position)
    columns: list[dict[str, list[Tensor]]] = [defaultdict(list) for _ in saes]
    batches = row_batches(rows, count, batch_rows, device=next(model.parameters()).device)
    for ids, documents in counted(batches, "compare norms", -(-count // batch_rows), unit="batches"):
        kept = measured(documents, first_position, ids=ids, drop_tokens=drop_tokens)
        found = capture(model, ids, sites, attention_mask=documents >= 0)
        for sae, name, (site, target), overlap, its in zip(saes, names, places, overlaps, columns, strict=True):
            for place, takes in ((site, sae.d_in), (target, sae.d_out)):
                if (width := found[place].shape[-1]) != takes:
                    raise ValueError(f"activations at {place} have width {width}, {name} takes {takes}; pass --site")
            x = found[site].to(sae.W_enc.dtype)
            latents = sae.encode(x)
            values = {"documents": documents, **_of(sae, latents, overlap)}
            values |= norms(sae, x.float(), found[target].float(), latents, sae.decode(latents, x).float())
            for column, value in values.items():
                its[column].append(value[kept].cpu())
    return [
        _figures(sae, str(site), _Columns(**{name: torch.cat(parts) for name, parts in its.items()}))
        for sae, (site, _), its in zip(saes, places, columns, strict=True)
    ]


def _of(sae: SAE, latents: Latents, overlap: RowOverlap) -> dict[str, Tensor]:
    scaled = latents.values.double() * sae.decoder_norms().double()[latents.indices]
    squares = scaled.square().sum(-1)
    return {
        "values_squared": squares,
        "written_squared": sae.written(latents).double().square().sum(-1),
        "random_squared": squares + (scaled.sum(-1).square() - squares) * overlap.mean,
    }


def _figures(sae: SAE, site: str, table: _Columns) -> NormFigures:
    if not len(table):
        raise ValueError("no token is left to measure on: every token is special or left out; give more text")
    afa = afa_quality(table, d_sae=sae.d_sae)
    some = bool(table.values_squared.any())

    def root(squares: Float[Tensor, " n"]) -> Estimate | None:
        if not some:
            return None
        found = metrics.ratio(squares, table.values_squared, groups=table.documents)
        value = math.sqrt(max(0.0, found.value))
        return replace(found, value=value, standard_error=found.standard_error / (2 * value) if value else math.nan)

    return NormFigures(
        site=site,
        tokens=len(table),
        documents=len(table.documents.unique()),
        l0=table.mean(table.l0),
        afa=afa,
        written_ratio=root(table.written_squared),
        random_ratio=root(table.random_squared),
        gap=None if afa is None else _times(afa.epsilon_lbo, max(1, sae.d_sae - 1)),
    )


def _times(estimate: Estimate, factor: int) -> Estimate:
    return replace(estimate, value=estimate.value * factor, standard_error=estimate.standard_error * factor)
