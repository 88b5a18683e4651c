"""What a model does with random tokens that come twice: which heads look back, and how well it copies."""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.checkpoints.curves import Quantity, quantity
from interp.clamping.induction import earlier_occurrences
from interp.models.loading import require_raw_weights
from interp.passes.together import Ask, Steps
from interp.sites.site import Site, expand_sites


def repeated_steps(
    model: Any, tokens: Int[Tensor, "sequences position"], *, batch: int = 4
) -> Steps[dict[str, Quantity]]:
    """Attention of every head to what followed a token's earlier occurrence and to the token before, and the loss on
    tokens that can be copied; ± over sequences.

    Args:
        model: from ``load_model``.
        tokens: rows of :func:`interp.clamping.repeated_rows`.
        batch: sequences a forward pass.

    Raises:
        ValueError: processed weights; a family whose patterns cannot be read.
    """
    require_raw_weights(model, purpose="measure induction")
    patterns = tuple(expand_sites(model, "blocks.*.attn.hook_pattern"))
    last = Site("logits")
    back: dict[Site, list[Tensor]] = defaultdict(list)
    scores: list[Tensor] = []
    for rows in tokens.split(batch):
        wanted = earlier_occurrences(rows)
        # The second half's tokens but the first: what a look at the first half tells.
        copied = torch.zeros_like(rows, dtype=torch.bool)[:, 1:]
        copied[:, rows.shape[1] // 2 + 1 :] = True

        def reduce(
            site: Site, value: Tensor, rows: Tensor = rows, wanted: Tensor = wanted, copied: Tensor = copied
        ) -> Tensor:
            if site == last:
                return _copying(value, rows.to(value.device), copied.to(value.device))
            return _looks_back(value, wanted.to(value.device))

        found = yield Ask(rows=rows, sites=(*patterns, last), reduce=reduce)
        scores.append(found[last].cpu())
        for site in patterns:
            back[site].append(found[site].cpu())
    heads: dict[str, Tensor] = {}
    for site in patterns:
        for head, each in enumerate(torch.cat(back[site]).unbind(1)):
            heads[f"{site.layer}.{head}"] = each  # [sequences, 2]
    loss, first_loss, right = torch.cat(scores).unbind(1)
    return {
        "induction": quantity({name: metrics.mean(each[:, 0]) for name, each in heads.items()}),
        "previous_token": quantity({name: metrics.mean(each[:, 1]) for name, each in heads.items()}),
        "copy_loss": quantity([metrics.mean(loss)]),
        "copy_gain": quantity([metrics.mean(first_loss - loss)]),
        "copy_accuracy": quantity([metrics.mean(right)]),
    }


def _looks_back(pattern: Float[Tensor, "batch head query key"], wanted: Tensor) -> Float[Tensor, "batch head 2"]:
    """Mean attention to the wanted keys, over queries that have some, and to the token before, over all but one."""
    pattern = pattern.float()
    some = wanted.any(-1)
    there = ((pattern * wanted[:, None]).sum(-1) * some[:, None]).sum(-1) / some.sum(-1)[:, None]
    before = pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1)
    return torch.stack([there, before], dim=-1)


def _copying(
    logits: Float[Tensor, "batch position vocab"], rows: Int[Tensor, "batch position"], copied: Tensor
) -> Float[Tensor, "batch 3"]:
    """Of each row the mean loss on what can be copied, on what cannot, and the share of the former that come first."""
    losses = metrics.cross_entropy(logits, rows)
    right = (logits[:, :-1].argmax(-1) == rows[:, 1:]).float()
    return torch.stack([_mean(losses, copied), _mean(losses, ~copied), _mean(right, copied)], dim=1)


def _mean(values: Float[Tensor, "batch position"], where: Tensor) -> Float[Tensor, " batch"]:
    return (values * where).sum(1) / where.sum(1)
