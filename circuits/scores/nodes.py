"""What an attribution returns: a number for every node, and everything needed to read it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from circuits.anatomy.nodes import Node
from circuits.scores.base import Attributed
from interp.metrics import Estimate
from interp.terminal.short_repr import short_repr

if TYPE_CHECKING:
    from circuits.scores.agreement import Agreement


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Attributed):
    """Estimated (or, for ``patching``, exact) changes of the scaled metric when a node is patched.

    In direction ``denoise`` a positive score means that the clean activation moves the answer towards the clean run's;
    in direction ``noise``, where corrupt activations are patched in, nodes that matter have negative scores.

    ``values`` is ``[layer, position]``, with a third axis where the nodes have heads or neurons, and without
    ``position`` where positions were taken together. Float64.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute(model, task, nodes="z", method="atp")
        >>> len(scores.top(3))
        3
    """

    axes: tuple[str, ...]
    """Names of the axes of ``values``, such as layer and position."""
    family: str
    """Family of the nodes, such as ``attn_out``."""
    labels: tuple[str, ...] | None = None
    """A word for each position; the roles, where those are what the position axis has."""
    agreement: "Agreement | None" = None
    """Agreement with exact patching, where it was asked for."""

    __repr__ = short_repr

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
        return [(self.nodes[i], float(self.values.flatten()[i])) for i in self._largest(k)]

    def finding(self, k: int = 3) -> str:
        """The ``k`` largest in words, such as ``layer 3 head 1 at ' Mary' +0.81 ± 0.05``."""
        values, errors, parts = self.values.flatten(), self.standard_error.flatten(), []
        unit = next((axis for axis in self.axes if axis not in ("layer", "position")), "")
        for i in self._largest(k):
            node = self.nodes[i]
            inner = "" if node.index is None else f" {unit} {node.index}"
            at = "" if node.position is None else f" at {self.labels[node.position]!r}" if self.labels else ""
            at += "" if node.position is None or self.labels else f" at position {node.position}"
            score = Estimate(float(values[i]), float(errors[i]), self.n)
            parts.append(f"layer {node.layer}{inner}{at} {score:+.2f} {score.error('.1g')}")
        return ", ".join(parts)

    def _largest(self, k: int) -> list[int]:
        return self.values.flatten().abs().argsort(descending=True, stable=True)[:k].tolist()

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
