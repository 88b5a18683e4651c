"""Where an induction head should look, and how much of its attention goes there."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.sites.capturing import capture
from interp.sites.site import expand_sites
from interp.terminal.progress import counted


def earlier_occurrences(tokens: Int[Tensor, "batch position"]) -> Bool[Tensor, "batch query key"]:
    """Of every query the keys that follow an earlier occurrence of its own token: what an induction head looks at.

    Example:
        >>> import torch
        >>> from interp.clamping import earlier_occurrences
        >>> earlier_occurrences(torch.tensor([[5, 6, 5]]))[0].nonzero().tolist()
        [[2, 1]]
    """
    length = tokens.shape[1]
    same = tokens[:, :, None] == tokens[:, None, :]  # [batch, query, key]
    targets = torch.zeros_like(same)
    targets[:, :, 1:] = same[:, :, :-1]
    return targets & torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()


def repeated_rows(
    vocab: int, *, sequences: int = 16, half: int = 50, seed: int = 0
) -> Int[Tensor, "sequences position"]:
    """Random tokens of a vocabulary, each row twice after token 0: the rows on which an induction head shows.

    Raises:
        ValueError: no sequences, halves of fewer than two tokens, or fewer than two tokens in the vocabulary.

    Example:
        >>> from interp.clamping import repeated_rows
        >>> repeated_rows(100, sequences=2, half=3).shape
        torch.Size([2, 7])
    """
    if sequences < 1 or half < 2 or vocab < 2:
        raise ValueError(f"sequences={sequences}, half={half}, vocab={vocab}: give at least 1, 2 and 2")
    once = torch.randint(1, vocab, (sequences, half), generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.zeros(sequences, 1, dtype=torch.int64), once, once], 1)


@torch.no_grad()
def induction_strength(
    model: Any, tokens: Int[Tensor, "sequences position"], *, batch: int = 4
) -> dict[tuple[int, int], Estimate]:
    """(layer, head) -> mean attention to the tokens after earlier occurrences, minus that to all others; 1 is perfect.

    Over the queries whose token occurred before; ± over sequences. A head clamped at strength s has 2 s - 1.

    Args:
        model: from ``load_model``.
        tokens: rows of one length without padding.
        batch: sequences a forward pass.

    Raises:
        ValueError: no token of any row occurs twice with another between.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Induction, clamp, induction_strength, repeated_rows
        >>> model = interp.load_model("embedded")
        >>> tokens = repeated_rows(1000, sequences=2, half=8)
        >>> with clamp(model, Induction(layer=2, head=0)):
        ...     strength = induction_strength(model, tokens)
        >>> round(strength[2, 0].value, 3)
        1.0
    """
    targets = earlier_occurrences(tokens)
    rows = targets.any(-1)
    if not rows.any():
        raise ValueError("no token occurs twice in a row, so that there is nothing to look back to: see repeated_rows")
    sites = expand_sites(model, "blocks.*.attn.hook_pattern")
    sums: dict[Any, list[Float[Tensor, "batch heads"]]] = {site: [] for site in sites}
    batches = list(zip(tokens.split(batch), targets.split(batch), strict=True))
    for ids, wanted in counted(batches, "measure heads", unit="batches"):
        for site, pattern in capture(model, ids, sites).items():
            there = (pattern * wanted[:, None].to(pattern.device)).sum(-1)  # [batch, head, query]
            strength = (2 * there - pattern.sum(-1)) * wanted.any(-1)[:, None].to(pattern.device)
            sums[site].append(strength.sum(-1).cpu())
    counts = rows.sum(1).float().cpu()
    found = {}
    for site in sites:
        for head, total in enumerate(torch.cat(sums[site]).T):
            found[int(site.layer or 0), head] = metrics.ratio(total, counts)
    return found
