"""All that can be said of chosen latents of a dictionary over several places, a book for each of its parts."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.sites.site import Site, expand_sites
from saes.evaluation.replacement import sites_of
from saes.features.book import FeatureBook, nearest_latents, passages
from saes.features.examples import Text, count_latents, spread_over_density
from saes.features.logit_effects import effects_of
from saes.places.dictionary import Dictionary
from saes.places.part import Part
from saes.same_model import check_same_names, name_of, said_model_of

_ADDED = ("attn_out", "mlp_out")
"""Kinds of sites whose activations are added to the residual stream, one after another."""
STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Kinds that are the residual stream, of which the last place counts: what stands at earlier ones has gone into it."""


@torch.no_grad()
def look_up_parts(
    dictionary: Dictionary,
    text: Text,
    *,
    latents: Sequence[tuple[int, int]] | None = None,
    max_latents: int = 500,
    examples: int = 8,
    facets: bool = False,
) -> tuple[FeatureBook, ...]:
    """``look_up`` of every part.

    Args:
        dictionary: On the model's device.
        text: Whose site is not read: each part is looked up where it reads.
        latents: Numbers of part and latent; by default ``max_latents``, as many of every part.
        max_latents: Of all parts together; at least one of each.
        examples: Passages a latent.
        facets: Whether to cluster the contexts of each, which takes seconds a latent.

    Raises:
        ValueError: a part or latent that is not there, places that are of several models, another model, and no latent
            that is active on the text.

    Example:
        >>> import interp, saes
        >>> from saes.features import Text, look_up_parts
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> text = Text(model=model, rows=rows, site=interp.Site("resid_post", 0))
        >>> books = look_up_parts(saes.embedded_transcoders(), text, latents=[(0, 5), (3, 7)], examples=2)
        >>> [(book.part, book.latents, book.written) for book in books if book.latents]
        [(0, (5,), ('blocks.0.hook_mlp_out',)), (3, (7,), ('blocks.3.hook_mlp_out',))]
    """
    reads, writes = sites_of(dictionary)
    expand_sites(text.model, (*reads, *writes))
    check_same_names(said_model_of(dictionary.provenance), name_of(text.model), name="this dictionary")
    parts = dictionary.placed()
    if wrong := [pair for pair in latents or () if not (0 <= pair[0] < len(parts) and 0 <= pair[1] < dictionary.d_sae)]:
        raise ValueError(
            f"there is no latent {wrong[0][1]} of part {wrong[0][0]}: parts are 0 to {len(parts) - 1}, latents 0 to"
            f" {dictionary.d_sae - 1}"
        )
    books = []
    for number, (part, places) in enumerate(parts):
        at = replace(text, site=tuple(reads[i] for i in places.reads))
        counts = count_latents(part, at)
        if latents is None:
            chosen = spread_over_density(counts, max(1, max_latents // len(parts)))
        else:
            chosen = list(dict.fromkeys(latent for its_part, latent in latents if its_part == number))
        written = tuple(writes[i] for i in places.writes)
        rows = to_residual_stream(part, written)
        books.append(
            FeatureBook(
                site=", ".join(map(str, at.sites)),
                d_sae=part.d_sae,
                counts=counts,
                chosen_by_hand=latents is not None,
                latents=tuple(chosen),
                **passages(part, at, chosen, counts, k=examples, facets=facets),
                nearest=tuple(nearest_latents(part, chosen)),
                effects=None if rows is None else tuple(effects_of(rows[chosen], text.model)),
                part=number,
                written=tuple(map(str, written)),
                norms=tuple(map(tuple, part.place_norms().T[chosen].tolist())),
            )
        )
    if not any(book.latents for book in books):
        raise ValueError(
            f"no latent is active on these {books[0].counts.tokens:,} tokens; give more text, or --latents"
        )
    return tuple(books)


@torch.no_grad()
def to_residual_stream(part: Part, written: Sequence[Site]) -> Float[Tensor, "d_sae d"] | None:
    """What each latent adds to the residual stream by the last layer, at all places that it writes together.

    Outputs of attention and MLPs add up; of places that are the residual stream the last one counts. None where no
    place is of either kind.
    """
    stream = [i for i, site in enumerate(written) if site.kind in STREAM]
    counted = stream[-1:] or [i for i, site in enumerate(written) if site.kind in _ADDED]
    if not counted:
        return None
    return torch.stack([part.at_place(i) for i in counted]).sum(0)
