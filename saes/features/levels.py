"""How a latent's activations are spread, and passages where it is half as active as at most, and hardly.

The strongest passages alone make a latent look cleaner than it is: what it stands for is seen at every level (Bricken
et al. 2023 show passages by interval of the activation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from saes.features.examples import Best, Example, Text, dense_columns, encoded
from saes.sae import SAE

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
) -> Levels:
    """One pass over the text; ``maximum`` holds the largest activation of each of the latents there.

    A row appears at most once a level, at a token drawn at random among those at that level.
    """
    device = sae.W_enc.device
    largest = torch.tensor(list(maximum), device=device).clamp_min(torch.finfo(torch.float32).tiny)
    histograms = torch.zeros(len(latents), BINS, dtype=torch.int64, device=device)
    drawn = [Best(len(latents), k=k, before=before, after=after, device=device) for _ in (MIDDLE, WEAK)]
    generator = torch.Generator().manual_seed(seed)
    for first_row, found in encoded(sae, text, whole_rows=True):
        dense = dense_columns(found, latents)
        share = dense / largest
        bins = (share * BINS).long().clamp(0, BINS - 1)
        histograms.scatter_add_(1, bins.flatten(0, 1).T, (dense > 0).flatten(0, 1).T.long())
        chance = 1 - torch.rand(dense.shape, generator=generator).to(device)  # above 0
        for best, (low, high) in zip(drawn, (MIDDLE, WEAK), strict=True):
            best.see(first_row, dense, chance * ((share >= low) & (share < high)))
    middle, weak = (tuple(best.examples(text.rows)) for best in drawn)
    return Levels(histograms=histograms.cpu(), middle=middle, weak=weak)


def merged(examples: Sequence[Example], *, k: int, around: int = 4) -> tuple[tuple[Example, ...], tuple[int, ...]]:
    """The first ``k`` examples that differ in the ``around`` tokens before the strongest, in it, or in the next.

    And how many there are of each: copies of a passage would fill the page.
    """
    kinds: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        peak = example.position - example.first
        kinds.setdefault(example.ids[max(0, peak - around) : peak + 2], []).append(example)
    kept = list(kinds.values())[:k]
    return tuple(each[0] for each in kept), tuple(map(len, kept))
