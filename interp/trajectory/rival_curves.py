"""What the emergence curve has to beat: a plain logarithm, and step responses of first and second order.

Each is y0 + gain * shape. arXiv 2508.03616 gives the step responses no offset y0; but at step 0 the ratio is about 7
already, so without one they would lose by that alone. Time u is in units of the last step.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from interp.trajectory.variable_projection import Separable

Parameter = Any
"""[*grid] array, or one NumPy float."""
Columns = Float[np.ndarray, "*grid n 2"]


def logarithm(u: Float[np.ndarray, " n"], tau: Parameter) -> Columns:
    """1 and ln(u + τ)."""
    return _with_offset(np.log(u + tau[..., None]))


def first_order(u: Float[np.ndarray, " n"], tau: Parameter) -> Columns:
    """1 and 1 - exp(-u / τ)."""
    return _with_offset(-np.expm1(-u / tau[..., None]))


def second_order(u: Float[np.ndarray, " n"], omega: Parameter, zeta: Parameter) -> Columns:
    """1 and the step response of natural frequency ω and damping ζ: oscillating below 1, overdamped above."""
    z = np.where(np.abs(zeta - 1) < 1e-5, 1 + 1e-5, zeta)[..., None]  # the critical case is the limit of both
    root = np.sqrt((z**2 - 1).astype(complex))
    fast, slow = omega[..., None] * (z + root), omega[..., None] * (z - root)
    return _with_offset(1 - ((fast * np.exp(-slow * u) - slow * np.exp(-fast * u)) / (fast - slow)).real)


def _with_offset(shape: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(shape), shape], axis=-1)


RIVALS = {
    "logarithm": Separable(logarithm, (("tau", 1e-6, 10.0, 80),)),
    "first_order": Separable(first_order, (("tau", 1e-4, 10.0, 80),)),
    "second_order": Separable(second_order, (("omega", 0.3, 3e3, 40), ("zeta", 0.05, 10.0, 24))),
}
