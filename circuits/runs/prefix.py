"""What two prompts share is computed once: keys and values of the tokens before the first that differs.

In a causal model nothing before that token can change, so patched runs need only the rest of the row. On prompts that
differ late this is most of the work.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from circuits.anatomy.anatomy import Anatomy


@dataclass(frozen=True)
class Prefix:
    """Keys and values ``[n, head, length, d_head]`` of every layer for the first ``length`` tokens of each prompt."""

    length: int
    """How many tokens both runs begin with."""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of these tokens, layer by layer."""

    def cache(self, copies: int) -> DynamicCache | None:
        """A cache that a pass of ``copies`` times the prompts may write to; None where nothing is shared."""
        if not self.length:
            return None
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys.repeat(copies, 1, 1, 1), values.repeat(copies, 1, 1, 1), number)
        return cache


@torch.no_grad()
def shared_prefix(anatomy: Anatomy, base: Tensor, source: Tensor) -> Prefix:
    """The common beginning of both runs of a task ``[n, position]``; empty for models with sliding windows, whose
    caches drop tokens."""
    length = int((base != source).any(0).nonzero()[0])
    sliding = getattr(anatomy.root.config, "layer_types", None) or ()
    if length == 0 or "sliding_attention" in sliding:
        return Prefix(0, ())
    device = next(anatomy.root.parameters()).device
    cache = anatomy.root(input_ids=base[:, :length].to(device), use_cache=True).past_key_values
    return Prefix(length, tuple((layer.keys, layer.values) for layer in cache.layers))
