"""The model's logits with other activations at a site."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.bridge import Model
from interp.sites.site import Site

Edit = tuple[Site, Callable[[Tensor], Tensor | None]]
"""A function of what passes the site; where it returns None it has only looked."""


def edited_logits(
    model: Model, ids: Int[Tensor, "batch position"], edits: Iterable[Edit]
) -> Float[Tensor, "batch position vocab"]:
    """Logits of one run with the edits, which apply in the order given."""
    hooks = [(str(site), lambda value, hook, edit=edit: edit(value)) for site, edit in edits]
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
