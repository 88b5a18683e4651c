"""The model's logits with other activations at a site; each position's activation is one vector.

Queries, keys, values and z have heads: all of them are one vector, head after head, as their projections see them, and
a site of one head (``blocks.3.attn.hook_z[5]``) is that head's part.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.models.bridge import Model
from interp.sites.capturing import capture
from interp.sites.kinds import KINDS
from interp.sites.site import Site

Edit = tuple[Site, Callable[[Tensor], Tensor | None]]
"""A function of the vectors that pass the site; where it returns None it has only looked."""


def vectors_at(
    model: Model, ids: Int[Tensor, "batch position"], *sites: Site, attention_mask: Tensor | None = None
) -> Float[Tensor, "batch position d"]:
    """The activations at a site, or at several side by side, a vector a position."""
    found = capture(model, ids, list(sites), attention_mask=attention_mask)
    vectors = [_as_vectors(found[site], site) for site in sites]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


def edited_logits(
    model: Model, ids: Int[Tensor, "batch position"], edits: Iterable[Edit]
) -> Float[Tensor, "batch position vocab"]:
    """Logits of one run with the edits, which apply in the order given."""
    hooks = [(_hook_name(site), partial(_apply, site, edit)) for site, edit in edits]
    return model.run_with_hooks(ids, fwd_hooks=hooks)


def looking(sites: Iterable[Site], seen: dict[Site, Tensor]) -> list[Edit]:
    """Edits that put into ``seen`` a copy of what passes, which the model cannot write to later."""

    def look(site: Site, value: Tensor) -> None:
        seen[site] = value.clone()

    return [(site, partial(look, site)) for site in dict.fromkeys(sites)]


def spliced_logits(
    model: Model,
    ids: Int[Tensor, "batch position"],
    site: Site,
    replacement: Float[Tensor, "*batch_position d"] | Callable[[], Tensor],
    *,
    where: Bool[Tensor, "batch position"],
    before: Iterable[Edit] = (),
) -> Float[Tensor, "batch position vocab"]:
    """Logits with ``replacement`` in place of the activation at ``site``, at the positions ``where`` holds. A function
    is called when the run is there, after the edits ``before``."""

    def splice(value: Tensor) -> Tensor:
        new = replacement() if callable(replacement) else replacement
        return torch.where(where[..., None], new.to(value.dtype), value)

    return edited_logits(model, ids, [*before, (site, splice)])


def _has_heads(site: Site) -> bool:
    return site.kind in KINDS and KINDS[site.kind].heads


def _hook_name(site: Site) -> str:
    return str(Site(site.kind, site.layer, path=site.path))


def _as_vectors(value: Shaped[Tensor, "batch position *d"], site: Site) -> Shaped[Tensor, "batch position d"]:
    """All heads in one vector; of a site of one head ``value`` is that head's already."""
    return value.flatten(2) if _has_heads(site) and site.head is None else value


def _apply(site: Site, edit: Callable[[Tensor], Tensor | None], value: Tensor, hook: object) -> Tensor | None:
    """An edit of vectors as a hook on what passes, which may have a dimension for heads."""
    shown = _as_vectors(value if site.head is None else value[:, :, site.head], site)
    new = edit(shown)
    if new is None:
        return None
    if site.head is None:
        return new.view_as(value)
    whole = value.clone()
    whole[:, :, site.head] = new
    return whole
