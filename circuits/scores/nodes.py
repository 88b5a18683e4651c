"""What an attribution returns: a number for every node, and everything needed to read it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from circuits.anatomy.nodes import Node
from circuits.scores.base import Attributed

if TYPE_CHECKING:
    from circuits.scores.agreement import Agreement


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Attributed):
    """Estimated (or, for ``patching``, exact) changes of the scaled metric when a node is patched.

    In direction ``denoise`` a positive score means that the clean activation moves the answer towards the clean run's;
    in direction ``noise``, where corrupt activations are patched in, nodes that matter have negative scores.

    ``values`` is ``[layer, position]``, with a third axis where the nodes have heads or neurons, and without
    ``position`` where positions were taken together. Float64.
    """

    axes: tuple[str, ...]
    """Names of the axes of ``values``, such as layer and position."""
    family: str
    """Family of the nodes, such as ``attn_out``."""
    labels: tuple[str, ...] | None = None
    """A word for each position; the roles, where those are what the position axis has."""
    agreement: "Agreement | None" = None
    """Agreement with exact patching, where it was asked for."""

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order of ``values.flatten()``."""
        nodes = []
        for where in torch.cartesian_prod(*(torch.arange(size) for size in self.values.shape)).reshape(
            -1, len(self.axes)
        ):
            at = dict(zip(self.axes, where.tolist(), strict=True))
            layer, position = at.pop("layer"), at.pop("position", None)
            nodes.append(Node(self.family, layer, position, next(iter(at.values()), None)))
        return tuple(nodes)

    def compared_with(self, found: "Agreement") -> "Scores":
        """The same with an agreement."""
        return replace(self, agreement=found)

    def top(self, k: int) -> list[tuple[Node, float]]:
        """The ``k`` nodes of largest absolute score, largest first."""
        flat = self.values.flatten()
        order = flat.abs().argsort(descending=True, stable=True)[:k].tolist()
        return [(self.nodes[i], float(flat[i])) for i in order]

    def to_json(self) -> Mapping[str, Any]:
        """Everything but the scores of single prompts."""
        return {
            "family": self.family,
            **self.origin(),
            "axes": list(self.axes),
            "labels": None if self.labels is None else list(self.labels),
            "values": self.values.tolist(),
            "standard_error": None if self.n == 1 else self.standard_error.tolist(),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
        }
