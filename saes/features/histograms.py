"""How strong a latent's activations are, and how large its effects on the logits, as histograms."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.bridge import Model
from saes.features.levels import BINS
from saes.features.logit_effects import logits_of, writes_to_the_residual
from saes.sae import SAE


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts in bins of equal width, the last with its end."""

    low: float
    """Where the first bin begins, in the unit of the values."""
    high: float
    """Where the last bin ends, in the unit of the values."""
    heights: tuple[int, ...]
    """None where there is nothing to count."""

    def rounded_centres(self) -> list[float]:
        """Of the bins, to three decimals."""
        width = (self.high - self.low) / max(1, len(self.heights))
        return [round(self.low + (number + 0.5) * width, 3) for number in range(len(self.heights))]


def activation_histogram(heights: Int[Tensor, " bins"], maximum: float) -> Histogram:
    """Of a latent whose tokens ``saes.features.levels`` has counted by activation, up to the largest."""
    return Histogram(low=0.0, high=maximum, heights=tuple(heights.tolist()) if heights.any() else ())


@torch.no_grad()
def logit_histograms(sae: SAE, model: Model, latents: Sequence[int]) -> list[Histogram]:
    """Of each latent's effect on the logit of every token; empty where it does not write to the residual stream."""
    if not writes_to_the_residual(sae):
        return [Histogram(low=0.0, high=0.0, heights=())] * len(latents)
    return [_of(row) for logits in logits_of(sae.W_dec[list(latents)], model) for row in logits.cpu()]


def _of(values: Float[Tensor, " n"]) -> Histogram:
    low, high = values.min(), values.max()
    heights = torch.histc(values, BINS, float(low), float(high))
    return Histogram(low=float(low), high=float(high), heights=tuple(int(n) for n in heights))
