"""Each activation minus its mean, over its standard deviation: what some SAEs are trained on.

OpenAI's GPT-2 SAEs, SAELens's ``normalize_activations="layer_norm"`` and ``input_unit_norm`` in the code of the top-AFA
paper are this, to the bit. Unlike one scale for all activations it cannot be folded into weights.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""Added to the standard deviation in the division, and only there."""


@dataclass(frozen=True)
class RowScale:
    """Mean and standard deviation (with divisor d - 1) of each activation."""

    mean: Float[Tensor, "*batch 1"]
    """Mean of each activation's entries."""
    std: Float[Tensor, "*batch 1"]
    """Standard deviation of each activation's entries, with divisor d - 1."""

    @classmethod
    def of(cls, x: Float[Tensor, "*batch d"]) -> "RowScale":
        """Those of ``x``."""
        mean = x.mean(-1, keepdim=True)
        return cls(mean, (x - mean).std(-1, keepdim=True))

    def remove(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """``x`` minus mean, over deviation."""
        return (x - self.mean) / (self.std + EPSILON)

    def restore(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The way back."""
        return x * self.std + self.mean
