"""Per layer and sequence: the largest magnitudes, where they are, and the median magnitude."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import metrics
from interp.arguments.kinds import require
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.models.loading import require_raw_weights
from interp.passes.together import Ask, Steps, alone, counted_steps
from interp.sites.site import Site, expand_sites
from interp.terminal.short_repr import short_repr


@dataclass(frozen=True, kw_only=True)
class LayerStats:
    """What is left of every hidden state once it has been reduced; blocks, positions and dimensions count from 0.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> stats = interp.massive.layer_stats(model, torch.arange(1, 65).view(2, 32))
        >>> stats.sites[-1]
        'blocks.3.hook_resid_post'
    """

    sites: tuple[str, ...]
    """Site of each layer's hidden states, in order."""
    values: Float[Tensor, "layers sequences top"]
    """Signed values, largest magnitude first."""
    positions: Int[Tensor, "layers sequences top"]
    """Position of each value in its sequence."""
    dims: Int[Tensor, "layers sequences top"]
    """Dimension of the residual stream of each value."""
    tokens: Int[Tensor, "layers sequences top"]
    """Ids of the tokens at those positions."""
    medians: Float[Tensor, "layers sequences"]
    """Median magnitude of all entries of each hidden state."""
    mads: Float[Tensor, "layers sequences"] | None = None
    """Median absolute deviations of the magnitudes from their median; None in what was stored without."""

    __repr__ = short_repr

    @property
    def top1(self) -> tuple[Estimate, ...]:
        """Mean largest magnitude of each layer, over sequences."""
        return tuple(metrics.mean(layer) for layer in self.values[..., 0].abs())

    @property
    def median(self) -> tuple[Estimate, ...]:
        """Mean median magnitude of each layer, over sequences."""
        return tuple(metrics.mean(layer) for layer in self.medians)

    @property
    def ratio(self) -> tuple[Estimate, ...]:
        """Mean largest magnitude over mean median: the ratio of means, as in arXiv 2508.03616, equation 8."""
        return tuple(map(metrics.ratio, self.values[..., 0].abs(), self.medians))

    @property
    def mean_of_ratios(self) -> tuple[Estimate, ...]:
        """The mean over sequences of each sequence's ratio (equation 6, averaged by equation 7)."""
        return tuple(map(metrics.mean, self.values[..., 0].abs() / self.medians))

    def as_released(self) -> np.ndarray:
        """[sequences, 4, layers] float64: top 1, 2, 3 and median, the layout of the papers' ``exp2_*`` files."""
        return torch.cat([self.values[..., :3].abs(), self.medians[..., None]], dim=2).permute(1, 2, 0).double().numpy()


@torch.no_grad()
def layer_stats(
    model: Model,
    tokens: Int[Tensor, "sequences position"],
    *,
    mask: Bool[Tensor, "sequences position"] | None = None,
    top: int = 3,
    batch: int = 1,
) -> LayerStats:
    """Measure every layer's hidden state; each is reduced inside its hook, so memory does not grow with the layers.

    Args:
        model: from ``load_model``, in float32 where the figures are to be compared with published ones.
        tokens: rows of one length; the papers take 10 of 2,048 tokens, without BOS and without padding.
        mask: True where a position counts; padding must be left out, since it changes the median.
        top: largest magnitudes kept of each layer and sequence.
        batch: sequences a forward pass.

    Raises:
        ValueError: weights were processed (centring changes the ratio of a token from 7,147 to 126 without changing any
            log-probability); a hidden state is not finite, as when float16 overflows; a sequence has no position left;
            ``top`` is below 1.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> stats = interp.massive.layer_stats(model, torch.arange(1, 65).view(2, 32))
        >>> stats.values.shape  # layers, sequences, largest
        torch.Size([4, 2, 3])
    """
    steps = layer_stats_steps(model, tokens, mask=mask, top=top, batch=batch)
    return alone(model, counted_steps(steps, "measure layers", -(-len(tokens) // batch)))


def layer_stats_steps(
    model: Model,
    tokens: Int[Tensor, "sequences position"],
    *,
    mask: Bool[Tensor, "sequences position"] | None = None,
    top: int = 3,
    batch: int = 1,
) -> Steps[LayerStats]:
    """:func:`layer_stats`, which may share its forward passes."""
    require_raw_weights(model, purpose="measure massive activations")
    require(tokens, Tensor, what="a tensor of token ids", fix="model.to_tokens(text)")
    if top < 1:
        raise ValueError(f"top is {top}; it must be 1 or more")
    sites = expand_sites(model, "blocks.*.hook_resid_post")
    counted = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    if counted.shape != tokens.shape or not bool(counted.any(1).all()):
        raise ValueError(
            f"mask of shape {list(counted.shape)} must be that of the tokens, {list(tokens.shape)}, and leave every"
            " sequence at least one position"
        )
    parts = []
    for rows, kept in zip(tokens.split(batch), counted.split(batch), strict=True):

        def reduce(_site: Site, value: Tensor, kept: Tensor = kept) -> Tensor:
            return extremes(value, kept=kept, top=top)

        found = yield Ask(rows=rows, sites=tuple(sites), reduce=reduce)
        parts.append(torch.stack([found[site] for site in sites]))
    whole = torch.cat(parts, dim=1).cpu()
    _check_finite(whole[..., 0], sites, next(model.parameters()).dtype)
    return stats_of(whole, tuple(map(str, sites)), tokens)


def stats_of(
    figures: Float[Tensor, "layers sequences figures"],
    sites: tuple[str, ...],
    tokens: Int[Tensor, "sequences position"],
) -> LayerStats:
    """What :func:`extremes` found in every layer, by name."""
    top = (figures.shape[-1] - 2) // 3
    positions = figures[..., top : 2 * top].long()
    return LayerStats(
        sites=sites,
        values=figures[..., :top].float(),
        positions=positions,
        dims=figures[..., 2 * top : 3 * top].long(),
        tokens=tokens.cpu().long().expand(len(sites), -1, -1).gather(2, positions),
        medians=figures[..., -2].float(),
        mads=figures[..., -1].float(),
    )


def extremes(
    hidden: Float[Tensor, "sequences position d"], kept: Bool[Tensor, "sequences position"], top: int
) -> Float[Tensor, "sequences figures"]:
    """Values, positions and dimensions of the largest magnitudes, their median, and the median absolute deviation from
    it; float64 holds the indices exactly."""
    rows = []
    width = hidden.shape[-1]
    for row, positions in zip(hidden, kept, strict=True):
        where = positions.nonzero().flatten().to(row.device)
        flat = (row if len(where) == len(row) else row[where]).flatten().float()  # exact, also from half precision
        magnitudes = flat.abs()
        indices = magnitudes.topk(top).indices  # an entry that is not finite comes first
        median = magnitudes.median()
        deviation = (magnitudes - median).abs().median()
        figures = (flat[indices], where[indices // width], indices % width, median[None], deviation[None])
        rows.append(torch.cat([figure.double() for figure in figures]))
    return torch.stack(rows)


def _check_finite(largest: Float[Tensor, "layers sequences"], sites: Any, dtype: torch.dtype) -> None:
    wrong = (~largest.isfinite()).any(1).nonzero().flatten()
    if len(wrong):
        limit = f" {dtype} holds nothing above {torch.finfo(dtype).max:.0f}:" if dtype == torch.float16 else ""
        raise ValueError(
            f"{sites[int(wrong[0])]} holds values that are not finite.{limit} load the model with dtype='float32'"
        )
