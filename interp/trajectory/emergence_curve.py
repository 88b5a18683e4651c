"""The five-parameter curve of how massive activations emerge in training (arXiv 2508.03616, equation 9).

``f(t) = A exp(-λ x) ln x + K`` with ``x = gamma t + t0``; ``t`` is the optimiser step itself, not its logarithm. A is
the amplitude, λ the decay, gamma the time scale, t0 the offset, K the asymptote. Without decay it is a logarithm; with
decay it rises and falls.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import lambertw


@dataclass(frozen=True, kw_only=True)
class EmergenceCurve:
    """One set of parameters; the curve is defined where gamma t + t0 > 0.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import EmergenceCurve
        >>> curve = EmergenceCurve(A=10.0, lam=0.01, gamma=1e-3, t0=1.0, K=0.0)
        >>> early, late = curve(np.array([0.0, 5_000.0]))
        >>> bool(early < late)
        True
    """

    A: float
    """Amplitude, in the unit of the values."""
    lam: float
    """λ, the rate of decay in the curve's time."""
    gamma: float
    """How far the curve's time goes in a step."""
    t0: float
    """The curve's time at step 0."""
    K: float
    """Asymptote, in the unit of the values."""

    def __call__(self, steps: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """f at each step."""
        x = self.gamma * steps + self.t0
        return self.A * np.exp(-self.lam * x) * np.log(x) + self.K

    def jacobian(self, steps: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 5"]:
        """Derivatives by A, λ, gamma, t0 and K."""
        x = self.gamma * steps + self.t0
        decay, log = np.exp(-self.lam * x), np.log(x)
        by_x = self.A * decay * (1 / x - self.lam * log)
        return np.stack([decay * log, -self.A * x * decay * log, by_x * steps, by_x, np.ones_like(x)], axis=1)

    @property
    def peak_step(self) -> float:
        """Where f is largest (for A > 0): x* = 1 / (λ W(1/λ)) by equation 13, W the principal Lambert W.

        Negative where f only falls from step 0 on; infinite where λ is 0 and f never stops rising.
        """
        return (self._peak_x - self.t0) / self.gamma

    @property
    def peak_height(self) -> float:
        """f at the peak; infinite where there is none."""
        x = self._peak_x
        return self.A * np.exp(-self.lam * x) * np.log(x) + self.K if np.isfinite(x) else np.inf

    @property
    def _peak_x(self) -> float:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            inverse = np.divide(1.0, self.lam)
            return float(1 / (self.lam * lambertw(inverse).real)) if np.isfinite(inverse) else np.inf

    def reparametrised(self) -> tuple[float, float, float, float, float]:
        """(β, τ0, A1, A2, K) of f(t) = exp(-β t) [A1 ln(t + τ0) + A2] + K (equation 14), linear in A1, A2 and K."""
        slope = self.A * np.exp(-self.lam * self.t0)
        return self.lam * self.gamma, self.t0 / self.gamma, float(slope), float(slope * np.log(self.gamma)), self.K

    @classmethod
    def from_reparametrised(
        cls, beta: float, tau0: float, slope: float, intercept: float, K: float
    ) -> "EmergenceCurve":
        """The inverse of :meth:`reparametrised`; ``slope`` is A1 and ``intercept`` A2."""
        gamma = float(np.exp(intercept / slope))
        return cls(A=float(slope * np.exp(beta * tau0)), lam=beta / gamma, gamma=gamma, t0=gamma * tau0, K=K)
