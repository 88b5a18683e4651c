"""Intervals of what a fitted emergence curve says, where the noise differs from point to point.

The noise of magnitudes and ratios grows with their size, and of a sharp early peak only a few points tell anything:
noise pooled over all points is that of the flat rest. So each squared residual stands for the variance of its own point
(HC2: MacKinnon and White 1985), and Student's t has the degrees of freedom that the points which decide leave (Bell and
McCaffrey 2002; Imbens and Kolesár 2016, section 3.2). Positive figures are taken as logarithms, in which the curve is
nearer to linear.
"""

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from interp.trajectory.emergence_curve import EmergenceCurve

PARAMETERS = ("A", "lam", "gamma", "t0", "K")
POSITIVE = ("A", "lam", "gamma", "t0", "peak_step")
_NAMES = (*PARAMETERS, "peak_step", "peak_height", "final_value")


def leverage(jacobian: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n n"]:
    """The hat matrix: how much each fitted value follows each point, in the linear approximation."""
    scaled = _scaled(jacobian)[0]
    return scaled @ _inverse(scaled)


def _scaled(jacobian: Float[np.ndarray, "n p"]) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, " p"]]:
    """With columns of length 1, and the lengths that they had (1 for none)."""
    norms = np.linalg.norm(jacobian, axis=0)
    norms = np.where(norms > 0, norms, 1.0)
    return jacobian / norms, norms


def _inverse(scaled: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "p n"]:
    """The pseudo-inverse; columns that only rounding tells apart count once."""
    return np.linalg.pinv(scaled, rcond=len(scaled) * np.finfo(np.float64).eps)


def linearised(curve: EmergenceCurve, steps: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 5"]:
    """Derivatives by β, τ0, A1, A2 and K of equation 14, which are finite also where λ and gamma run to 0 and infinity.

    They span the same plane as those by A, λ, gamma, t0 and K.
    """
    beta, tau0, slope, intercept, _ = curve.reparametrised()
    decay, log = np.exp(-beta * steps), np.log(steps + tau0)
    by_beta = -steps * decay * (slope * log + intercept)
    return np.stack([by_beta, decay * slope / (steps + tau0), decay * log, decay, np.ones_like(decay)], axis=1)


def curve_intervals(
    curve: EmergenceCurve, steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], *, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Of the parameters, ``peak_step``, ``peak_height`` and ``final_value`` (at the last step), to first order.

    What no float holds, such as the step of a peak that is infinitely far, has an interval that is not a number.

    Args:
        curve: the least-squares fit.
        steps: ascending.
        values: measured there.
        level: how often an interval should hold the truth.
    """
    with np.errstate(all="ignore"):
        figures, gradients = _figures(curve, steps[-1])
        half = half_widths(linearised(curve, steps), values - curve(steps), gradients, level=level)
        ends = np.stack([figures - half, figures + half])
        ends = np.where([name in POSITIVE for name in _NAMES], np.exp(ends), ends)
    return {name: (float(low), float(high)) for name, low, high in zip(_NAMES, *ends, strict=True)}


def half_widths(
    jacobian: Float[np.ndarray, "n p"],
    residuals: Float[np.ndarray, " n"],
    gradients: Float[np.ndarray, "figures p"],
    *,
    level: float = 0.95,
) -> Float[np.ndarray, " figures"]:
    """Half the intervals of figures of a least-squares fit, to first order, without an assumption of equal noise.

    Args:
        jacobian: derivatives of the fitted values by the parameters.
        residuals: measured minus fitted.
        gradients: derivatives of the figures by the parameters.
        level: how often an interval should hold the truth.
    """
    scaled, norms = _scaled(jacobian)
    residual_of = np.eye(len(residuals)) - leverage(jacobian)
    free = np.maximum(np.diag(residual_of), 1e-9)
    with np.errstate(all="ignore"):
        pulls = (gradients / norms) @ _inverse(scaled)  # of each figure by each value
        weights = pulls**2 / free
        variances = weights @ residuals**2
        freedom = (pulls**2).sum(1) ** 2 / np.einsum("ki,kj,ij->k", weights, weights, residual_of**2)
        return np.asarray(student.ppf((1 + level) / 2, freedom) * np.sqrt(variances))


def _figures(curve: EmergenceCurve, last: float) -> tuple[Float[np.ndarray, " 8"], Float[np.ndarray, "8 5"]]:
    """The figures, positive ones as logarithms, and their derivatives by β, τ0, A1, A2 and K."""
    beta, tau0, slope, intercept, _ = curve.reparametrised()
    by_beta, by_tau0, _, _, by_asymptote = np.eye(5)
    log_gamma = intercept / slope
    by_log_gamma = np.array([0, 0, -log_gamma / slope, 1 / slope, 0])
    # The peak's s = t + τ0 solves β s (ln s + ln gamma) = 1.
    peak = np.float64(curve.peak_step)
    s = peak + tau0
    shape = np.log(s) + log_gamma
    by_peak = -s * (shape / beta * by_beta + by_log_gamma) / (shape + 1) - by_tau0
    gradients = {
        "A": np.array([tau0, beta, 1 / slope, 0, 0]),
        "lam": by_beta / beta - by_log_gamma,
        "gamma": by_log_gamma,
        "t0": by_log_gamma + by_tau0 / tau0,
        "K": by_asymptote,
        "peak_step": by_peak / peak,
        "peak_height": linearised(curve, np.array([peak]))[0],  # there the curve does not change with the step
        "final_value": linearised(curve, np.array([last]))[0],
    }
    figures = {name: getattr(curve, name) for name in (*PARAMETERS, "peak_step", "peak_height")}
    figures["final_value"] = curve(np.array([last]))[0]
    scaled = [np.log(np.float64(figures[name])) if name in POSITIVE else figures[name] for name in _NAMES]
    return np.array(scaled), np.stack([gradients[name] for name in _NAMES])
