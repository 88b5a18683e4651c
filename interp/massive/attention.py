"""Attention sinks: positions that most heads look at (Gu et al. 2024, arXiv 2410.10781), and massive tokens as such."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.massive.detection import MassiveActivation
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.models.loading import require_raw_weights
from interp.passes.together import Ask, Steps, alone, counted_steps
from interp.sites.site import expand_sites
from interp.terminal.short_repr import short_repr


@dataclass(frozen=True, kw_only=True)
class SinkStats:
    """How much attention every position receives.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> sinks = interp.massive.attention_sinks(model, torch.arange(1, 65).view(2, 32))
        >>> len(sinks.sites)
        4
    """

    sites: tuple[str, ...]
    """Site of each layer's patterns, in order."""
    importance: Float[Tensor, "layers sequences heads key"]
    """:func:`importance` of each head's pattern."""

    __repr__ = short_repr

    def sink_rate(self, *, position: int = 0, eps: float = 0.3) -> Estimate:
        """Share of (layer, head) pairs to which ``position`` is a sink: importance above ``eps``; ± over sequences.

        Gu et al.'s Sink metric is this at the first position, with eps 0.3, on sequences of 64 tokens.
        """
        sinks = self.importance[..., position] > eps
        return metrics.mean(sinks.float().mean((0, 2)))

    def received(self, massive: Iterable[MassiveActivation] | None = None) -> tuple[Estimate, ...]:
        """Of every layer, the mean attention over heads that massive tokens receive from later queries and themselves.

        ± over those tokens. Without ``massive``: that the first position receives, ± over sequences.
        """
        places = {(each.sequence, each.position) for each in massive} if massive is not None else None
        if places is None:
            places = {(sequence, 0) for sequence in range(self.importance.shape[1])}
        inside = sorted(place for place in places if place[1] < self.importance.shape[-1])
        if not inside:
            raise ValueError(
                f"none of {len(places)} massive tokens is within the {self.importance.shape[-1]} positions measured;"
                " measure attention on the same rows, with window=None"
            )
        sequences, positions = map(list, zip(*inside, strict=True))
        return tuple(metrics.mean(layer[sequences, :, positions].mean(1)) for layer in self.importance)


def importance(pattern: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch key"]:
    """Mean attention that each key receives from the queries that can see it (arXiv 2410.10781, section 3.1)."""
    length = pattern.shape[-1]
    return pattern.float().sum(-2) / torch.arange(length, 0, -1, device=pattern.device)


@torch.no_grad()
def attention_sinks(
    model: Model, tokens: Int[Tensor, "sequences position"], *, window: int | None = 64, batch: int = 1
) -> SinkStats:
    """Measure where every head of every layer looks; patterns are reduced inside their hooks.

    Args:
        model: from ``load_model``.
        tokens: rows of one length.
        window: first positions of each row to use; the rate depends on it, and Gu et al. take 64. None takes all.
        batch: sequences a forward pass.

    Raises:
        ValueError: weights were processed; the model computes no attention patterns.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> sinks = interp.massive.attention_sinks(model, torch.arange(1, 65).view(2, 32))
        >>> sinks.importance.shape
        torch.Size([4, 2, 3, 32])
    """
    steps = sink_steps(model, tokens[:, :window], batch=batch)
    return alone(model, counted_steps(steps, "measure attention", -(-len(tokens) // batch)))


def sink_steps(
    model: Model, tokens: Int[Tensor, "sequences position"], *, window: int | None = None, batch: int = 1
) -> Steps[SinkStats]:
    """:func:`attention_sinks`, which may share its forward passes: the whole rows run, and of their patterns the first
    ``window`` positions count, which see nothing of what follows them."""
    require_raw_weights(model, purpose="measure attention sinks")
    sites = expand_sites(model, "blocks.*.attn.hook_pattern")
    parts = []
    for rows in tokens.split(batch):
        found = yield Ask(
            rows=rows, sites=tuple(sites), reduce=lambda _site, value: importance(value[..., :window, :window])
        )
        parts.append(torch.stack([found[site] for site in sites]))
    return SinkStats(sites=tuple(map(str, sites)), importance=torch.cat(parts, dim=1).cpu())
