"""Where a latent should fire and does not: the activation lies along what the latent writes, and the latent is 0.

Passages where it fires show what it means at best; those where it is silent show what it leaves out, as where a more
special latent has taken its place (feature absorption: Chanin et al., arXiv 2409.14507). What counts as "should" is
measured: an activation, less b_dec, whose cosine with the decoder row is at least what it is on half of the tokens on
which the latent fires. The cosine, and not the projection, or a few massive tokens would stand first for every latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from interp.tokens.token_rows import TokenRows
from saes.features.examples import Best, Example, merged
from saes.places.part import Part
from saes.sae import SAE

_BINS = 200
"""Of cosines, from -1 to 1: a hundredth each."""


@dataclass(frozen=True, kw_only=True)
class Misses:
    """Of one latent."""

    typical: float | None
    """The cosine of activation and decoder row that half of the tokens on which it fires reach, to a hundredth; None
    where it never fires."""
    fires: int
    """Tokens on which it fires and the cosine is that or more."""
    silent: int
    """Tokens on which it is 0 and the cosine is that or more."""
    examples: tuple[Example, ...]
    """Passages around the strongest of these, in the order of the cosine; a row and a context appear once."""
    cosines: tuple[float, ...]
    """Of each example's token."""


def has_misses(sae: SAE) -> bool:
    """Whether the decoder reconstructs what the encoder reads, so that the two can be compared."""
    return not isinstance(sae, Part) and sae.target_site in (None, sae.site) and sae.d_in == sae.W_dec.shape[-1]


class MissesSeen:
    """What is seen of some latents, batch by batch."""

    def __init__(self, sae: SAE, latents: Sequence[int], *, k: int, before: int, after: int) -> None:
        self._sae, self._k, device = sae, k, sae.W_enc.device
        self._rows = functional.normalize(sae.W_dec[list(latents)].float(), dim=-1)
        self._best = Best(len(latents), k=3 * k, before=before, after=after, device=device)
        self._fires, self._silent = (
            torch.zeros(len(latents), _BINS, dtype=torch.int64, device=device) for _ in range(2)
        )

    def see(
        self,
        first_row: int,
        x: Float[Tensor, "row position d"],
        dense: Float[Tensor, "row position latent"],
        measured: Bool[Tensor, "row position"],
    ) -> None:
        """Take in the rows from ``first_row`` on: what the latents read, and their activations."""
        along = functional.normalize((self._sae.normalised(x) - self._sae.b_dec).float(), dim=-1)
        cosines = along @ self._rows.T
        bins = ((cosines + 1) * (_BINS / 2)).long().clamp(0, _BINS - 1).flatten(0, 1).T
        fires = (dense != 0) & measured[..., None]
        silent = (dense == 0) & measured[..., None]
        for counts, where in ((self._fires, fires), (self._silent, silent)):
            counts.scatter_add_(1, bins, where.flatten(0, 1).T.long())
        self._best.see(first_row, dense, cosines * silent)

    def misses(self, rows: TokenRows) -> tuple[Misses, ...]:
        """Of each latent, in their order."""
        # Tokens in a bin or above it; of the bins that hold half of those on which the latent fires, the last.
        fires, silent = (counts.flip(1).cumsum(1).flip(1) for counts in (self._fires, self._silent))
        halves = (2 * fires >= fires[:, :1]).sum(1) - 1
        found = []
        for i, examples in enumerate(self._best.examples(rows)):
            half = int(halves[i])
            if not fires[i, 0]:
                found.append(Misses(typical=None, fires=0, silent=0, examples=(), cosines=()))
                continue
            typical = 2 * half / _BINS - 1
            cosines = dict(zip(((each.row, each.position) for each in examples), self._best.scores(i), strict=True))
            strong = [each for each in examples if cosines[each.row, each.position] >= typical]
            kept, _ = merged(strong, k=self._k)
            found.append(
                Misses(
                    typical=typical,
                    fires=int(fires[i, half]),
                    silent=int(silent[i, half]),
                    examples=kept,
                    cosines=tuple(cosines[each.row, each.position] for each in kept),
                )
            )
        return tuple(found)
