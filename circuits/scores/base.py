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
    """Scores on the scale of the metric: the means of ``per_prompt``."""
    per_prompt: Tensor
    """``[n, *values.shape]``: the scores of each prompt."""
    method: str
    """Name of the method, such as ``relp``."""
    rules: tuple[str, ...] | None
    """Relevance rules in force; None for methods without."""
    direction: str
    """Which way was patched, ``denoise`` or ``noise``."""
    metric: str
    """Name of the task's metric, such as ``logit_difference``."""
    clean_metric: float
    """The raw metric of the clean run, which is 1 on the scale of the scores."""
    corrupt_metric: float
    """The raw metric of the corrupt run, which is 0 on that scale."""
    cost: Cost
    """Forward and backward passes that the scores took."""

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
