"""The optimisers to choose from, as plain numbers: the command line is made from them, so nothing slow is imported."""

import math
from dataclasses import dataclass

ADAM_BETAS = (0.8, 0.95)
"""Shorter memories than is usual: FVU is 1 to 5 % lower in runs of 200 to 2,000 steps (``docs/sae-quality.md``)."""
ADAM_EPS = 1e-18
"""Only against 0 / 0: about the smallest number whose square float32 still holds. The loss is a mean over rows and
dimensions, so that the root of the second moment of a latent that is rarely active can be 1e-8 and less: with
PyTorch's eps, of that size, it would take a fraction of Adam's step."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of them."""

    title: str
    """As it is written in sentences."""
    rate: float
    """Default learning rate of runs of up to 1000 steps with batches of up to 2,048, times the root of the width."""
    batch_exponent: float = 0.0
    """How the rate grows with larger batches, whose gradients are less noisy: what leaves as few latents dead. Beyond
    8,192, where nothing was compared, it stays."""
    moments: int
    """How many numbers it keeps of each weight of a matrix."""
    whole: bool = False
    """Whether a step of a matrix takes all of its latents together, so that processes cannot share them."""

    @property
    def rule(self) -> str:
        """What stands in a run's folder for a rate that was left to us: a run of another rule is another run."""
        larger = f" * clamp(batch / 2048, 1, 4)^{self.batch_exponent}" if self.batch_exponent else ""
        return f"{self.rate:g} / sqrt(d_in) * min(1, sqrt(1000 / steps)){larger}"

    def default_rate(self, d_in: int, *, steps: int, batch_size: int, scale: float) -> float:
        """The rule with numbers, of an activation that wants ``scale`` times the rate.

        A step moves every weight by about the rate, so that a row of d_in entries and norm 1 turns by sqrt(d_in) times
        as much: that is what is kept. How many latents there are hardly matters.
        """
        larger = min(4.0, max(1.0, batch_size / 2048)) ** self.batch_exponent
        return scale * self.rate / math.sqrt(d_in) * min(1.0, math.sqrt(1000 / steps)) * larger


KINDS = {
    "adam": Kind(title="Adam", rate=0.08, batch_exponent=0.4, moments=2),
    "signum": Kind(title="Signum", rate=0.03, moments=1),
    "muon": Kind(title="Muon", rate=0.3, moments=1, whole=True),
    "soap": Kind(title="SOAP", rate=0.08, moments=2, whole=True),
}
