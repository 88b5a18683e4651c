"""Which latents are explained: those with enough passages, and for each another of about the same density."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saes.explanations.passages import Grid, Survey

FEWEST = 5
"""Passages to explain from, below which nothing is asked."""
_CLOSE = 1.25
"""Latents whose densities differ by no more than this factor are matched."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Latents of a study."""

    companions: dict[int, int]
    """Of each latent that is scored another, about as dense, whose explanation stands for chance."""
    left_out: dict[int, str]
    """Latents that were asked for and cannot be explained, with the reason."""
    eligible: tuple[int, ...]
    """All latents with enough passages, the densest first."""

    @property
    def explained(self) -> list[int]:
        """Latents that are scored, then companions that are not."""
        return list(dict.fromkeys([*self.companions, *self.companions.values()]))

    def with_rivals(self, count: int) -> list[int]:
        """Those that are explained, and others near the first in density, so that there are ``count`` besides any
        latent and its companion, where there are as many."""
        rank = {latent: number for number, latent in enumerate(self.eligible)}
        first = rank[next(iter(self.companions))]
        near = sorted(self.eligible, key=lambda latent: abs(rank[latent] - first))
        explained = self.explained
        return list(dict.fromkeys([*explained, *near]))[: max(len(explained), count + 2)]


def choose(found: Survey, grid: Grid, latents: Sequence[int] | None, *, max_latents: int, items: int) -> Choice:
    """``latents``, or ``max_latents`` in pairs of neighbours in density, evenly spread over all that have enough.

    Raises:
        ValueError: a latent that is not there; none, or no companion, with enough passages.
    """
    half, d_sae = items // 2, len(found.active)
    enough = (found.explaining >= FEWEST) & (found.scoring >= half)
    enough &= int(grid.scoring.sum()) - found.scoring >= half
    eligible = [int(i) for i in found.active.argsort(descending=True, stable=True) if enough[i]]
    needs = (
        f"active in {FEWEST} of {int(grid.explaining.sum()):,} passages to explain from and in {half} of"
        f" {int(grid.scoring.sum()):,} to score on, and silent in {half} of these"
    )
    if latents is not None and (wrong := [latent for latent in latents if not 0 <= latent < d_sae]):
        raise ValueError(f"there is no latent {wrong[0]}; this SAE has 0 to {d_sae - 1}")
    left_out = {
        latent: f"active in {int(found.explaining[latent]):,} and {int(found.scoring[latent]):,}; it must be {needs}"
        for latent in latents or ()
        if not enough[latent]
    }
    if len(eligible) < 2:
        fix = "it takes two: give more text (--tokens), or fewer --items"
        raise ValueError(f"{len(eligible)} latents are {needs}; {fix}")
    if latents is None:
        if max_latents < 1:
            raise ValueError(f"max_latents is {max_latents}; it must be 1 or more")
        pairs = np.linspace(0, len(eligible) - 2, -(-max_latents // 2)).round().astype(int)
        ranks = dict.fromkeys(int(rank) + more for rank in pairs for more in (0, 1))
        chosen = sorted(eligible[rank] for rank in list(ranks)[:max_latents])
    else:
        chosen = [latent for latent in dict.fromkeys(latents) if latent not in left_out]
    if not chosen:
        reasons = "; ".join(f"latent {latent} is {reason}" for latent, reason in left_out.items())
        raise ValueError(f"{reasons or 'no latent was asked for'}: give more text (--tokens), or other latents")
    companions = {latent: _companion(latent, chosen, eligible, found) for latent in chosen}
    return Choice(companions=companions, left_out=left_out, eligible=tuple(eligible))


def _companion(latent: int, chosen: Sequence[int], eligible: Sequence[int], found: Survey) -> int:
    """The other latent of the nearest density, among those that are explained anyway where one of these is close."""

    def factor(other: int) -> float:
        a, b = sorted((int(found.active[latent]), int(found.active[other])))
        return b / a

    close = [other for other in chosen if other != latent and factor(other) <= _CLOSE]
    return min(close or (other for other in eligible if other != latent), key=factor)
