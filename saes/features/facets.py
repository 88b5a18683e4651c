"""The different reasons for which latents fire: clusters of what the SAE reads where they do (see ``interp.facets``).

What a latent reads is what it was chosen by, so its encoder's direction is taken out first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.facets.clustering import LEAST, MOST, Facets, facets
from interp.facets.unit_contexts import PER_ROW, SPREAD, STRONGEST, strong_and_spread
from interp.terminal.progress import counted
from interp.tokens.token_rows import TokenRows
from saes.features.examples import Example, example_at, merged
from saes.sae import SAE

MOST_CONTEXTS = STRONGEST + SPREAD


@dataclass(frozen=True, kw_only=True)
class LatentFacets:
    """Of one latent."""

    contexts: int
    """Tokens on which it is active that were chosen to be clustered."""
    found: Facets | None
    """Clusters of these; members count them from the strongest on. None where there are fewer than 20."""
    may_be_more: bool
    """Whether there are as many facets as were tried."""
    examples: tuple[tuple[Example, ...], ...]
    """Of each facet its passages, the nearest to the centre first."""
    copies: tuple[tuple[int, ...], ...]
    """How many nearly equal passages of the facet each example stands for."""


class ContextsSeen:
    """Where some latents are active, and what the SAE reads there, batch by batch."""

    def __init__(self, sae: SAE, latents: Sequence[int], *, k: int, before: int = 20, after: int = 10) -> None:
        self._k, self._before, self._after = k, before, after
        self._directions = sae.W_enc.detach()[:, list(latents)].T.float().cpu()
        self._active: list[Int[Tensor, "n 3"]] = []
        self._values: list[Float[Tensor, " n"]] = []
        self._kept: list[Int[Tensor, "m 2"]] = []
        self._x: list[Float[Tensor, "m d"]] = []

    def see(
        self, first_row: int, x: Float[Tensor, "row position d"], dense: Float[Tensor, "row position latent"]
    ) -> None:
        """Take in the rows from ``first_row`` on. Only those vectors are kept that ``strong_and_spread`` may choose."""
        active = (dense > 0).nonzero()
        self._values.append(dense[active.unbind(1)].cpu())
        inner = dense.clone()
        inner[:, 0] = 0
        values, positions = (each[:, :PER_ROW] for each in inner.sort(dim=1, descending=True, stable=True))
        wanted = torch.zeros(dense.shape[:2], dtype=torch.bool, device=dense.device)
        rows = torch.arange(len(dense), device=dense.device)[:, None, None].expand_as(positions)
        wanted[rows[values > 0], positions[values > 0]] = True
        self._x.append(x[wanted].float().cpu())
        start = torch.tensor([first_row, 0, 0])
        self._active.append(active.cpu() + start)
        self._kept.append(wanted.nonzero().cpu() + start[:2])

    def facets(self, rows: TokenRows) -> tuple[LatentFacets, ...]:
        """Of each latent, in their order."""
        active, values, kept, x = (torch.cat(each) for each in (self._active, self._values, self._kept, self._x))
        width = rows.ids.shape[1]
        tokens = kept[:, 0] * width + kept[:, 1]
        found = []
        for i, direction in enumerate(counted(self._directions, "find facets", unit="latents")):
            mine = active[:, 2] == i
            where, value = active[mine, :2], values[mine]
            inner = (where[:, 1] > 0).nonzero().flatten()
            chosen = inner[strong_and_spread(value[inner], where[inner, 0])]
            if len(chosen) < LEAST:
                found.append(LatentFacets(contexts=len(chosen), found=None, may_be_more=False, examples=(), copies=()))
                continue
            vectors = x[torch.searchsorted(tokens, where[chosen, 0] * width + where[chosen, 1])]
            its = facets(vectors, value[chosen], direction=direction if direction.any() else None)
            shown = [
                merged([self._example(rows, where, value, int(chosen[each])) for each in facet.members], k=self._k)
                for facet in its.facets
            ]
            examples, copies = zip(*shown, strict=True)
            found.append(
                LatentFacets(
                    contexts=len(chosen),
                    found=its,
                    may_be_more=len(its.facets) == MOST,
                    examples=examples,
                    copies=copies,
                )
            )
        return tuple(found)

    def _example(self, rows: TokenRows, where: Int[Tensor, "n 2"], value: Float[Tensor, " n"], number: int) -> Example:
        row, position = where[number].tolist()
        offset = where[:, 1] - position + self._before
        near = (where[:, 0] == row) & (offset >= 0) & (offset <= self._before + self._after)
        window = torch.zeros(self._before + 1 + self._after)
        window[offset[near]] = value[near]
        return example_at(rows, row, position, window, self._before)
