"""The model's logits with other activations at a site."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.sites.site import Site


def spliced_logits(
    model: Any,
    ids: Int[Tensor, "batch position"],
    site: Site,
    replacement: Float[Tensor, "batch position d"],
    *,
    where: Bool[Tensor, "batch position"],
) -> Float[Tensor, "batch position vocab"]:
    """Logits with ``replacement`` in place of the activation at ``site``, at the positions ``where`` holds."""

    def hook(value: Tensor, hook: Any) -> Tensor:
        return torch.where(where[..., None], replacement.to(value.dtype), value)

    return model.run_with_hooks(ids, fwd_hooks=[(str(site), hook)])
