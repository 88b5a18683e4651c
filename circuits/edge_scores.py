"""What scoring edges returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from circuits.running import Cost


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeScores:
    """A number for every edge, ``values[writer, reader]``; 0 where there is no edge."""

    values: Tensor
    per_prompt: Tensor
    """``[n, writer, reader]``; their mean is ``values``."""
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    mask: Tensor
    """``[writer, reader]``: where there is an edge."""
    groups: Mapping[str, tuple[str, ...]]
    """The nodes that each reader belongs to: several heads where they share keys and values."""
    method: str
    rules: tuple[str, ...] | None
    direction: str
    metric: str
    clean_metric: float
    corrupt_metric: float
    cost: Cost

    @property
    def n(self) -> int:
        """Prompts."""
        return len(self.per_prompt)

    @property
    def standard_error(self) -> Tensor:
        """Of ``values`` over prompts; NaN for a single one."""
        return self.per_prompt.std(0) / self.n**0.5

    @property
    def edges(self) -> dict[tuple[str, str], float]:
        """Every edge and its score, in the order in which the model computes them."""
        return {(self.writers[u], self.readers[v]): float(self.values[u, v]) for u, v in self.mask.nonzero().tolist()}

    def node_values(self) -> dict[str, float]:
        """Each writer's sum over its readers: its score as a node."""
        return dict(zip(self.writers, self.values.sum(1).tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Everything but the scores of single prompts."""
        return {
            "method": self.method,
            "rules": None if self.rules is None else list(self.rules),
            "direction": self.direction,
            "metric": self.metric,
            "clean_metric": self.clean_metric,
            "corrupt_metric": self.corrupt_metric,
            "prompts": self.n,
            "cost": self.cost.to_json(),
            "edges": [[u, v, score] for (u, v), score in self.edges.items()],
        }
