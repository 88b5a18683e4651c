"""Changes of latents, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graphs.linear.transcoders import Transcoder
from interp.terminal.short_repr import short_repr

MODES = ("direct", "frozen_attention", "live")
"""What is held as it was on the prompt: see :mod:`circuits.graphs.interventions.reruns`."""


@dataclass(frozen=True)
class LatentChange:
    """What happens to one latent: ``set`` to a value, ``add`` it, or ``scale`` by it. Where it is not active, its
    value is 0.

    Example:
        >>> import torch
        >>> from circuits.graphs import LatentChange
        >>> LatentChange(0, 875, 2.0, "scale").delta(torch.tensor(3.0))
        tensor(3.)
    """

    layer: int
    """The layer whose transcoder has the latent."""
    index: int
    """Number of the latent in its transcoder."""
    value: float = 0.0
    """An activation to set or to add, or a factor to scale by."""
    how: Literal["set", "add", "scale"] = "set"
    """Whether the activation is set, added to, or scaled."""
    position: int | None = None
    """None for every position at which transcoders stand in."""

    def delta(self, value: Tensor) -> Tensor:
        """How much more of the latent there is, where it has ``value``."""
        wanted = {"set": torch.full_like(value, self.value), "add": value + self.value, "scale": value * self.value}
        return wanted[self.how] - value


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervened:
    """What followed from changes of latents on one prompt.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import LatentChange
        >>> latent = graph.top(1, 3)[0]
        >>> found = graph.intervene([LatentChange(latent.layer, latent.index, position=latent.position)])
        >>> found.mode, len(found.top(2))
        ('live', 2)
    """

    mode: str
    """One of ``MODES``: what was held fixed."""
    change: np.ndarray
    """By node of the graph, how much its pre-activation (a target's value) rose; NaN where a node has none."""
    logits: Float[Tensor, " vocab"]
    """Logits at the last position after the changes."""
    clean_logits: Float[Tensor, " vocab"]
    """Logits at the last position without any change."""

    __repr__ = short_repr

    def top(self, k: int = 5) -> list[tuple[int, float, float]]:
        """The ``k`` likeliest tokens after the change: id, probability, and probability before."""
        after, before = self.logits.double().softmax(-1), self.clean_logits.double().softmax(-1)
        return [(int(i), float(after[i]), float(before[i])) for i in after.topk(min(k, len(after))).indices]


def checked_changes(changes: Sequence[LatentChange], transcoders: Sequence[Transcoder], kept: Tensor) -> None:
    """Whether there are such latents, at positions where transcoders stand in.

    Raises:
        ValueError: no change, or one of what is not there.
    """
    by_layer = {one.layer: one for one in transcoders}
    if not changes:
        raise ValueError("changes is empty; pass one LatentChange at least")
    for change in changes:
        if change.layer not in by_layer:
            known = ", ".join(map(str, by_layer))
            raise ValueError(f"{change} is of a layer without a transcoder; those with one are {known}")
        if not 0 <= change.index < (d_sae := by_layer[change.layer].part.d_sae):
            raise ValueError(f"{change} is of no latent: there are 0 to {d_sae - 1}")
        if change.how not in ("set", "add", "scale"):
            raise ValueError(f"{change} is none that is known: how is set, add or scale")
        if change.position is not None and not (0 <= change.position < len(kept) and bool(kept[change.position])):
            raise ValueError(f"{change} is at a position where no transcoder stands in")
