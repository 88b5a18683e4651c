"""What the first activations of a site say before training on them: mean, norm, and whether a few tokens are all."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.massive.massive_tokens import MASSIVE_TIMES

FIRST = 2048
"""How many rows are kept, for weights that start from the data."""


@dataclass(frozen=True, kw_only=True)
class SiteStatistics:
    """Of the rows that training reads first."""

    site: str
    """Name of the site that the rows are of."""
    rows: int
    """How many rows were looked at."""
    first: Float[Tensor, "few d"]
    """The first ``FIRST`` of these rows, of two places row for row of the same tokens."""
    mean: Float[Tensor, " d"]
    """Mean of these rows, entry by entry."""
    norm: float
    """Mean norm of a row."""
    deviation: float
    """Root of the mean square of entries about the mean; 0 where all rows are equal."""
    massive: int
    """Rows whose norm is above ``MASSIVE_TIMES`` the median."""
    massive_share: float
    """Of the rows' squared distances from their mean, the part that those have."""

    @classmethod
    def of(cls, data: Float[Tensor, "n d"], *, site: str) -> "SiteStatistics":
        """Raises ValueError where all of the rows, which must be finite, are zero."""
        norms = data.norm(dim=-1)
        norm = float(norms.mean())
        if not norm:
            raise ValueError(f"the first {len(data)} activations at {site} are all zero; there is nothing to train on")
        mean = data.mean(0)
        distances = (data - mean).norm(dim=-1).double().square()  # of float32's largest numbers too
        massive = norms > MASSIVE_TIMES * norms.median()
        share = float(distances[massive].sum() / distances.sum()) if bool(massive.any()) else 0.0
        return cls(
            site=site,
            rows=len(data),
            first=data[:FIRST].clone(),
            mean=mean,
            norm=norm,
            deviation=float((distances.mean() / data.shape[-1]).sqrt()),
            massive=int(massive.sum()),
            massive_share=share,
        )

    def scale(self, normalisation: str) -> float:
        """What activations are multiplied with in training, see ``TrainConfig.normalise``.

        Raises ValueError where they do not vary, and that is what is to be 1.
        """
        if normalisation == "mean_norm":
            return math.sqrt(len(self.mean)) / self.norm
        if normalisation != "variance":
            return 1.0
        if not self.deviation:
            raise ValueError(
                f"the first {self.rows} activations at {self.site} are all equal: they have no variance to be scaled to"
                " 1; pass normalise='mean_norm', or leave the site out"
            )
        return 1 / self.deviation

    def __str__(self) -> str:
        seen = f"{self.site}: of the first {self.rows:,} activations"
        if not self.massive:
            return f"{seen} none has more than {MASSIVE_TIMES:g} times the median norm"
        return (
            f"{seen} {self.massive:,} ({self.massive / self.rows:.2%}) have more than {MASSIVE_TIMES:g} times"
            f" the median norm, and {self.massive_share:.1%} of the variance: the SAE will be of these, and"
            f" its FVU too. Leave them out with --drop-norm-above {MASSIVE_TIMES:g} of interp cache, or first positions"
            " with --drop-first 1"
        )
