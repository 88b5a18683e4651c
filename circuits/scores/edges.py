"""What scoring edges returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from circuits.scores.agreement import Agreement
from circuits.scores.base import Attributed
from interp.terminal.short_repr import short_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeScores(Attributed):
    """A number for every edge, ``values[writer, reader]``; 0 where there is no edge.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> scores.values.shape == (len(scores.writers), len(scores.readers))
        True
    """

    writers: tuple[str, ...]
    """Names of the nodes that write, in the order of the first axis."""
    readers: tuple[str, ...]
    """Names of what reads, in the order of the second axis."""
    mask: Tensor
    """``[writer, reader]``: True where there is an edge."""
    groups: Mapping[str, tuple[str, ...]]
    """The nodes that each reader belongs to: several heads where they share keys and values."""
    agreement: Agreement | None = None
    """Agreement with path patching, where it was asked for."""
    family: ClassVar[str] = "edges"
    axes: ClassVar[tuple[str, ...]] = ("writer", "reader")

    __repr__ = short_repr

    @property
    def cells(self) -> Tensor:
        """``[n, edge]``."""
        return self.per_prompt[:, self.mask]

    @property
    def edges(self) -> dict[tuple[str, str], float]:
        """Every edge and its score, in the order in which the model computes them."""
        return {(self.writers[u], self.readers[v]): float(self.values[u, v]) for u, v in self.mask.nonzero().tolist()}

    def node_values(self) -> dict[str, float]:
        """Each writer's sum over its readers: its score as a node."""
        return dict(zip(self.writers, self.values.sum(1).tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Everything but the scores of single prompts."""
        return self.origin() | {
            "edges": [[u, v, score] for (u, v), score in self.edges.items()],
            "agreement": None if self.agreement is None else self.agreement.to_json(),
        }
