"""All that can be said of chosen latents, together: counts, passages, effects on the logits, nearest latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from saes.features.attention import attention_paid
from saes.features.examples import Example, LatentCounts, Text, count_latents, merged, spread_over_density, top_examples
from saes.features.levels import Levels, levels
from saes.features.logit_effects import Effects, logit_effects
from saes.places.part import Part
from saes.sae import SAE

if TYPE_CHECKING:
    from saes.features.facets import LatentFacets


@dataclass(frozen=True, kw_only=True)
class FeatureBook:
    """Chosen latents of one SAE, with what the page says of each, in the same order.

    Example:
        >>> import interp, saes, torch
        >>> from saes.features import Text, look_up
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> book = look_up(sae, Text(model=model, rows=rows, site=interp.Site.parse(sae.site)), latents=[4, 7])
        >>> book.latents, book.chosen_by_hand
        ((4, 7), True)
    """

    site: str
    """Where the SAE reads; several sites are joined by commas."""
    d_sae: int
    """Number of latents of the whole SAE."""
    counts: LatentCounts
    """How often and how strongly each latent is active."""
    chosen_by_hand: bool
    """Whether the caller named the latents, instead of a choice by activity."""
    latents: tuple[int, ...]
    """Numbers of the chosen latents, in the order shown."""
    examples: tuple[tuple[Example, ...], ...]
    """Of each chosen latent its strongest passages, the strongest first."""
    copies: tuple[tuple[int, ...], ...]
    """How many nearly equal passages each example stands for, among the strongest."""
    attention: tuple[tuple[tuple[float, ...], ...], ...] | None
    """Of each example what its strongest token attends to; see :func:`saes.features.attention.attention_paid`."""
    levels: Levels
    """Of each chosen latent a histogram of activations, and passages at lower levels."""
    facets: "tuple[LatentFacets, ...] | None"
    """Of each chosen latent the reasons for which it fires; None where they were not asked for."""
    nearest: tuple[tuple[tuple[int, float], ...], ...]
    """Latents of the whole SAE and the cosines of decoder rows."""
    effects: tuple[Effects, ...] | None
    """None where the SAE does not write to the residual stream."""
    part: int | None = None
    """Number of the part of a dictionary over several places; None of an SAE."""
    written: tuple[str, ...] = ()
    """The places that a part's latents write to."""
    norms: tuple[tuple[float, ...], ...] = ()
    """Of every latent the norm of its decoder row at each of these, in the units of training."""


def look_up(
    sae: SAE,
    text: Text,
    *,
    latents: Sequence[int] | None = None,
    max_latents: int = 500,
    examples: int = 8,
    facets: bool = False,
) -> FeatureBook:
    """Everything about ``latents``, or about ``max_latents`` spread evenly over the ranks of density.

    ``facets`` takes no further pass, but seconds a latent.

    Raises ValueError for a latent that the SAE lacks, and where no latent is active on the text.

    Example:
        >>> import interp, saes, torch
        >>> from saes.features import Text, look_up
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> book = look_up(sae, Text(model=model, rows=rows, site=interp.Site.parse(sae.site)), max_latents=3)
        >>> len(book.latents), len(book.examples)
        (3, 3)
    """
    counts = count_latents(sae, text)
    chosen = spread_over_density(counts, max_latents) if latents is None else list(dict.fromkeys(latents))
    if not chosen:
        raise ValueError(f"no latent is active on these {counts.tokens:,} tokens; give more text, or --latents")
    shown = passages(sae, text, chosen, counts, k=examples, facets=facets)
    effects = logit_effects(sae, text.model, chosen)
    return FeatureBook(
        site=str(text.site),
        d_sae=sae.d_sae,
        counts=counts,
        chosen_by_hand=latents is not None,
        latents=tuple(chosen),
        **shown,
        nearest=tuple(nearest_latents(sae, chosen)),
        effects=None if effects is None else tuple(effects),
    )


def passages(
    sae: SAE, text: Text, latents: Sequence[int], counts: LatentCounts, *, k: int, facets: bool
) -> dict[str, Any]:
    """A book's ``examples``, at most ``k`` a latent, their ``copies``, ``attention``, ``levels`` and ``facets``."""
    contexts = None
    if facets:
        from saes.features.facets import ContextsSeen  # which an extra installs

        contexts = ContextsSeen(sae, latents, k=max(1, k // 2))
    strongest = top_examples(sae, text, latents, k=_CANDIDATES * k) if latents else []
    found = [merged(several, k=k) for several in strongest]
    at_levels = levels(sae, text, latents, counts.maximum[list(latents)].tolist(), k=max(1, k // 2), contexts=contexts)
    return {
        "examples": tuple(kept for kept, _ in found),
        "copies": tuple(copies for _, copies in found),
        "attention": attention_paid(text, [kept for kept, _ in found]),
        "levels": at_levels,
        "facets": None if contexts is None else contexts.facets(text.rows),
    }


_CHUNK = 64
_CANDIDATES = 3
"""As many passages are looked at for each that is shown, since some are copies."""


@torch.no_grad()
def nearest_latents(sae: SAE, latents: Sequence[int], *, k: int = 8) -> list[tuple[tuple[int, float], ...]]:
    """For each of ``latents`` the ``k`` others with the largest cosine of decoder rows, and that cosine."""
    rows = functional.normalize((sae.scaled_rows() if isinstance(sae, Part) else sae.W_dec).float(), dim=-1)
    k = min(k, sae.d_sae - 1)
    found = []
    for chunk in torch.tensor(list(latents), dtype=torch.int64, device=rows.device).split(_CHUNK):
        cosines = rows[chunk] @ rows.T
        cosines[torch.arange(len(chunk)), chunk] = -torch.inf
        values, indices = cosines.topk(k, dim=-1)
        for numbers, similarities in zip(indices.tolist(), values.tolist(), strict=True):
            found.append(tuple(zip(numbers, similarities, strict=True)))
    return found
