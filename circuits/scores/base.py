"""What every attribution returns, of nodes or of edges."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from circuits.runs.runner import Cost
from circuits.scores.uncertainty import standard_error


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributed:
    """Scores on the scale of the metric, and everything needed to read them; subclasses say of what."""

    values: Tensor
    """The means of ``per_prompt``."""
    per_prompt: Tensor
    """``[n, *values.shape]``."""
    method: str
    rules: tuple[str, ...] | None
    """The relevance rules in force; None for methods without."""
    direction: str
    metric: str
    clean_metric: float
    """The raw metric of the clean run, which is 1 on the scale of the scores."""
    corrupt_metric: float
    cost: Cost

    @property
    def n(self) -> int:
        """Prompts."""
        return len(self.per_prompt)

    @property
    def cells(self) -> Tensor:
        """``per_prompt`` as ``[n, cell]``, without what is no cell: what agreement is measured over."""
        return self.per_prompt.flatten(1)

    @property
    def standard_error(self) -> Tensor:
        """Of ``values`` over prompts; NaN for a single one."""
        return standard_error(self.per_prompt)

    def origin(self) -> dict[str, Any]:
        """How the scores came about, as plain data."""
        return {
            "method": self.method,
            "rules": None if self.rules is None else list(self.rules),
            "direction": self.direction,
            "metric": self.metric,
            "clean_metric": self.clean_metric,
            "corrupt_metric": self.corrupt_metric,
            "prompts": self.n,
            "cost": self.cost.to_json(),
        }
