"""What clamping a latent does to the next token, and pairs of token lists to tell an explanation by.

At the measured positions of some passages the latent is set to a multiple of its largest activation: the activation
that it writes gets (value - f) times its decoder row, so that what the SAE misses stays; of a latent that writes to
several layers each of them gets its own. p is the next-token distribution
without, p' with the clamp; a token's **share of the effect** is p' log(p' / p), averaged over measured positions. The
shares add up to KL(p' ‖ p), and tokens with the largest are those that the clamp made likelier, and likely.

Each pair shows the tokens most raised by this latent and by another, on the same passages; what both raise is shown of
the one that ranks it higher.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.bridge import Model
from interp.sites.site import Site
from interp.sites.splicing import Edit, edited_logits
from saes.explanations.trials import Item
from saes.latents import Latents
from saes.places.part import Part
from saes.sae import SAE

LEAST_EFFECT = 1e-3
"""Nats of KL below which a clamp does nothing that could be told."""
_LISTED, _RANKED = 6, 24


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Of one clamped latent on one set of passages."""

    kl: float
    """KL(with the clamp ‖ without), in nats a position."""
    raised: tuple[int, ...]
    """Ids of the tokens with the largest shares of it, the largest first."""


class Clamping:
    """A latent set to a value on some rows of text.

    Args:
        sae: An SAE, a transcoder, or a part of a dictionary over several places.
        model: Its model.
        read: The place that it reads.
        writes: Those that it writes.
        ids: The rows.
        where: The positions that are clamped, and then measured.
    """

    @torch.no_grad()
    def __init__(
        self,
        sae: SAE,
        model: Model,
        read: Site,
        writes: Sequence[Site],
        ids: Int[Tensor, "rows position"],
        where: Bool[Tensor, "rows position"],
    ) -> None:
        self._sae, self._model, self._read, self._writes = sae, model, read, tuple(writes)
        self._ids, self._where = ids, where
        self._clean = edited_logits(model, ids, [])[where].float().log_softmax(-1)

    @torch.no_grad()
    def logits(self, latent: int, value: float) -> Float[Tensor, "rows position vocab"]:
        """Of a run with the clamp.

        Raises:
            ValueError: the model computes a place that the latent writes before the one that it reads.
        """
        more: list[Tensor] = []

        def look(x: Tensor) -> None:
            more.extend(self._more(x, latent, value))

        def write(y: Tensor, number: int) -> Tensor:
            if not more:
                raise ValueError(f"the model computes {self._writes[number]} before {self._read}, which writes there")
            return torch.where(self._where[..., None], y + more[number].to(y.dtype), y)

        edits: list[Edit] = [(site, partial(write, number=number)) for number, site in enumerate(self._writes)]
        return edited_logits(self._model, self._ids, [(self._read, look), *edits])

    def _more(self, x: Float[Tensor, "rows position d"], latent: int, value: float) -> Sequence[Tensor]:
        """What is added at each place."""
        sae, x = self._sae, x.to(self._sae.W_enc.dtype)
        found = sae.encode(x)
        delta = value - (found.values * (found.indices == latent)).sum(-1, keepdim=True)
        index = torch.full_like(delta, latent, dtype=torch.int64)
        with_it, without = (Latents(values, index, sae.d_sae) for values in (delta, torch.zeros_like(delta)))
        if isinstance(sae, Part):
            return sae.written(with_it).split(sae.written_widths, dim=-1)
        return [sae.decode(with_it, x) - sae.decode(without, x)]  # in the units of x, whatever the SAE's

    @torch.no_grad()
    def effect(self, latent: int, value: float) -> Effect:
        """Over the positions that are clamped."""
        after = self.logits(latent, value)[self._where].float().log_softmax(-1)
        shares = (after.exp() * (after - self._clean)).mean(0)
        ranked = shares.topk(min(_RANKED, int((shares > 0).sum()))).indices
        return Effect(kl=float(shares.sum()), raised=tuple(ranked.tolist()))


def effect_items(
    effects: Sequence[Effect],
    rivals: Sequence[Sequence[Effect]],
    text_of: Callable[[int], str],
    *,
    latent: int,
    seed: int,
) -> list[Item]:
    """A pair for each set of passages, each with the next of the ``rivals``; a latent's own list is A in half of them.

    ``rivals``: of each other latent the effects on the same sets. Fewer pairs where the lists are the same.
    """
    generator = np.random.default_rng([seed, latent, 3])
    first = int(generator.integers(2))
    items: list[Item] = []
    for number, own in enumerate(effects):
        other = rivals[number % len(rivals)][number]
        ranks = [{token: rank for rank, token in enumerate(each.raised)} for each in (own, other)]
        lists = [
            [token for token, rank in a.items() if rank < b.get(token, _RANKED)][:_LISTED]
            for a, b in (ranks, ranks[::-1])
        ]
        if not all(lists):
            continue
        truth = (len(items) + first) % 2 == 0
        a, b = ([_quoted(text_of(token)) for token in tokens] for tokens in (lists if truth else lists[::-1]))
        items.append(Item(text=f"A: {', '.join(a)}  |  B: {', '.join(b)}", truth=truth, kind="pair"))
    return items


def _quoted(text: str) -> str:
    return '"' + text.replace("\n", "↵").replace('"', "'") + '"'
