"""How a latent's activations are spread, and passages where it is half as active as at most, hardly, and wrongly not.

The strongest passages alone make a latent look cleaner than it is: what it stands for is seen at every level (Bricken
et al. 2023 show passages by interval of the activation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from saes.features.examples import Best, Example, Text, encoded
from saes.features.misses import Misses, MissesSeen, has_misses
from saes.sae import SAE

if TYPE_CHECKING:
    from saes.features.facets import ContextsSeen

BINS = 50
MIDDLE, WEAK = (0.4, 0.6), (0.05, 0.2)
"""Shares of the largest activation."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Of chosen latents, in their order."""

    histograms: Int[Tensor, "latents bins"]
    """Tokens by activation, in ``BINS`` equal parts from 0 to the largest; tokens on which it is 0 are left out."""
    middle: tuple[tuple[Example, ...], ...]
    """Passages at about half the largest activation, drawn at random."""
    weak: tuple[tuple[Example, ...], ...]
    """Passages at a twentieth to a fifth of it, drawn at random."""
    misses: tuple[Misses, ...] | None
    """Where each should fire and does not; None where the decoder writes elsewhere than the encoder reads."""


@torch.no_grad()
def levels(
    sae: SAE,
    text: Text,
    latents: Sequence[int],
    maximum: Sequence[float],
    *,
    k: int = 4,
    before: int = 20,
    after: int = 10,
    seed: int = 0,
    contexts: "ContextsSeen | None" = None,
) -> Levels:
    """One pass over the text, which ``contexts`` sees too; ``maximum`` holds the largest activation of each latent.

    A row appears at most once a level, at a token drawn at random among those at that level.
    """
    device = sae.W_enc.device
    largest = torch.tensor(list(maximum), device=device).clamp_min(torch.finfo(torch.float32).tiny)
    histograms = torch.zeros(len(latents), BINS, dtype=torch.int64, device=device)
    drawn = [Best(len(latents), k=k, before=before, after=after, device=device) for _ in (MIDDLE, WEAK)]
    generator = torch.Generator().manual_seed(seed)
    missed = MissesSeen(sae, latents, k=k, before=before, after=after) if has_misses(sae) else None
    for batch in encoded(sae, text, what="look at all levels"):
        dense = batch.dense(latents)
        share = dense / largest
        bins = (share * BINS).long().clamp(0, BINS - 1)
        histograms.scatter_add_(1, bins.flatten(0, 1).T, (dense > 0).flatten(0, 1).T.long())
        chance = 1 - torch.rand(dense.shape, generator=generator).to(device)  # above 0
        for best, (low, high) in zip(drawn, (MIDDLE, WEAK), strict=True):
            best.see(batch.first_row, dense, chance * ((share >= low) & (share < high)))
        if missed is not None:
            missed.see(batch.first_row, batch.x, dense, batch.measured)
        if contexts is not None:
            contexts.see(batch.first_row, batch.x, dense)
    middle, weak = (tuple(best.examples(text.rows)) for best in drawn)
    return Levels(
        histograms=histograms.cpu(),
        middle=middle,
        weak=weak,
        misses=None if missed is None else missed.misses(text.rows),
    )
