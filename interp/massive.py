"""Massive activations: single entries of the residual stream that are thousands of times its median.

A hidden state is the residual stream after a block (before the final norm); its largest magnitudes and its median are
taken over all positions and dimensions of one sequence (Sun et al. 2024; arXiv 2508.03616).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.capturing import capture
from interp.metrics import Estimate
from interp.models import require_raw_weights
from interp.sites import expand_sites

TOP = 3
"""Largest magnitudes kept of each sequence and layer."""


@dataclass(frozen=True, kw_only=True)
class LayerStats:
    """Per layer and sequence: where the largest magnitudes are, and the median magnitude."""

    sites: tuple[str, ...]
    values: Float[Tensor, "layers sequences top"]
    """Signed values, largest magnitude first."""
    positions: Int[Tensor, "layers sequences top"]
    dims: Int[Tensor, "layers sequences top"]
    medians: Float[Tensor, "layers sequences"]

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
        """Mean largest magnitude over mean median: the ratio of means, as in the papers."""
        return tuple(map(metrics.ratio, self.values[..., 0].abs(), self.medians))

    @property
    def mean_of_ratios(self) -> tuple[Estimate, ...]:
        """The mean over sequences of each sequence's ratio."""
        return tuple(map(metrics.mean, self.values[..., 0].abs() / self.medians))


@torch.no_grad()
def layer_stats(model: Any, tokens: Int[Tensor, "sequences position"], *, batch: int = 8) -> LayerStats:
    """Measure every layer's hidden state; each is reduced inside its hook, so memory does not grow with the layers.

    Raises ValueError for a model whose weights were processed: centring changes the ratio.
    """
    require_raw_weights(model, purpose="measuring massive activations")
    sites = expand_sites(model, "blocks.*.hook_resid_post")
    parts = [capture(model, chunk, sites, reduce=_extremes) for chunk in tokens.split(batch)]
    found = torch.stack([torch.cat([part[site] for part in parts]) for site in sites])
    return LayerStats(
        sites=tuple(map(str, sites)),
        values=found[..., :TOP].float(),
        positions=found[..., TOP : 2 * TOP].long(),
        dims=found[..., 2 * TOP : 3 * TOP].long(),
        medians=found[..., -1].float(),
    )


def _extremes(hidden: Float[Tensor, "sequences position d"]) -> Float[Tensor, "sequences figures"]:
    """Values, positions and dimensions of the largest magnitudes, and the median; float64 holds the indices exactly."""
    flat = hidden.double().flatten(1)
    indices = flat.abs().topk(TOP, dim=1).indices
    median = flat.abs().median(dim=1, keepdim=True).values
    width = hidden.shape[-1]
    return torch.cat([flat.gather(1, indices), indices // width, indices % width, median], dim=1)
