"""How well an estimate agrees with exact patching: not one number, because each hides something.

Cells before the first differing token are zero for every method and make a Pearson correlation look better than it is;
and no correlation sees scale, while attribution patching is often too small by a factor of five.
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from circuits.scores.base import Attributed

RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Estimate (x) against exact patching (y), over the cells of a family. NaN where one of them is constant."""

    pearson: float
    """Pearson's correlation over all cells."""
    pearson_nonzero: float
    """Over the cells that patching changes at all."""
    slope: float
    """Least squares through the origin of estimate on exact, ``sum xy / sum yy``: 1 is the right size, 0.2 five times
    too small."""
    rank: float
    """Spearman's correlation on the non-zero cells."""
    pearson_interval: tuple[float, float]
    """95 % of ``pearson`` in bootstrap samples of prompts; NaN for a single one, of which all samples are the same."""
    pearson_nonzero_interval: tuple[float, float]
    """The same interval of ``pearson_nonzero``."""
    cells: int
    """How many cells were compared."""
    nonzero_cells: int
    """Those of them that patching changes at all."""
    prompts: int
    """How many prompts the scores are means over."""

    @property
    def interval_text(self) -> str:
        """``pearson_interval`` in words; ``n = 1`` where there is none."""
        low, high = self.pearson_interval
        return "n = 1" if self.prompts == 1 else f"{low:.3f} to {high:.3f}"

    def to_json(self) -> dict[str, Any]:
        """As a dictionary; what is not a number becomes null."""

        def clean(value: Any) -> Any:
            if isinstance(value, tuple):
                return [clean(v) for v in value]
            return None if value != value else value

        return {name: clean(value) for name, value in asdict(self).items()}


def agreement(estimate: "Attributed", exact: "Attributed", *, seed: int = 0) -> Agreement:
    """Compare two results for the same nodes (features, edges) and prompts; AtP* knows no signs, and is compared with
    absolute effects.

    Raises:
        ValueError: they are not of the same nodes, prompts, metric or direction.
    """
    for name in ("family", "axes", "direction", "metric", "n"):
        if getattr(estimate, name) != getattr(exact, name):
            raise ValueError(
                f"the results are not comparable: {name} is {getattr(estimate, name)} and {getattr(exact, name)}"
            )
    x, y = estimate.cells, exact.cells
    y = y.abs() if estimate.method == "atp*" else y
    if x.shape != y.shape:
        raise ValueError(
            f"the results have {x.shape[1]} and {y.shape[1]} nodes; they must be of the same task and model"
        )
    live = (y != 0).any(0)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(x), (RESAMPLES if len(x) > 1 else 0, len(x)), generator=generator)
    resampled = [(x[rows].mean(0), y[rows].mean(0)) for rows in drawn]
    mean_x, mean_y = x.mean(0), y.mean(0)
    return Agreement(
        pearson=pearson(mean_x, mean_y),
        pearson_nonzero=pearson(mean_x[live], mean_y[live]),
        slope=float((mean_x * mean_y).sum() / mean_y.square().sum()),
        rank=pearson(ranks(mean_x[live]), ranks(mean_y[live])),
        pearson_interval=_interval([pearson(a, b) for a, b in resampled]),
        pearson_nonzero_interval=_interval([pearson(a[live], b[live]) for a, b in resampled]),
        cells=x.shape[1],
        nonzero_cells=int(live.sum()),
        prompts=len(x),
    )


def pearson(x: Tensor, y: Tensor) -> float:
    """Correlation of two vectors; NaN where one is constant."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    return float((x * y).sum() / (x.norm() * y.norm()))


def ranks(x: Tensor) -> Tensor:
    """Ranks from 0, ties sharing their mean rank."""
    _, inverse, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double() - 1
    return (last - (counts.double() - 1) / 2)[inverse]


def _interval(values: list[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    found = torch.tensor(values, dtype=torch.float64)
    low, high = found.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
