"""How the share of active neurons goes with the tokens seen in training (Sparsing Law, arXiv 2411.02335).

With D in 10^9 tokens, ReLU models fall as A(D) = exp(-c D^alpha + b) + A0 ("logspace power law"), SiLU models rise as
A(D) = A0 - c / D^alpha. Fitted by variable projection from the valleys of a grid, all points with the same weight;
intervals are those of ``interp.trajectory``, and stand only where the points tell the parameters apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from interp.trajectory.curve_intervals import half_widths
from interp.trajectory.variable_projection import Separable, Solution, problem

Form = Literal["relu", "silu"]
FEWEST_POINTS = 6
_UNIT = 1e9
_MAX_CONDITION = 1e3  # as for the emergence curve of interp.trajectory
_STARTS = 4


def _falling(u: Float[np.ndarray, " n"], c: Any, alpha: Any) -> np.ndarray:
    shape = np.exp(-c[..., None] * u ** alpha[..., None])
    return np.stack([shape, np.ones_like(shape)], axis=-1)


def _rising(u: Float[np.ndarray, " n"], alpha: Any) -> np.ndarray:
    shape = -(u ** -alpha[..., None])
    return np.stack([shape, np.ones_like(shape)], axis=-1)


# With D in units of the last: c D^alpha there from next to nothing to all, and exponents from nearly flat to a step.
_FORMS = {
    "relu": Separable(_falling, (("c", 1e-3, 30.0, 60), ("alpha", 0.02, 5.0, 60))),
    "silu": Separable(_rising, (("alpha", 0.01, 5.0, 120),)),
}


@dataclass(frozen=True, kw_only=True)
class ActivationLaw:
    """One form fitted to one training run."""

    form: Form
    """Which law: relu falls, silu rises."""
    n: int
    """How many points were fitted."""
    parameters: dict[str, float]
    """c, alpha and A0, and b of the falling form; D is in 10^9 tokens."""
    last: float
    """Tokens at the last point, in 10^9."""
    r2: float
    """Share of the ratios' variance that the law explains."""
    aic: float
    """n ln(RSS / n) + 2 k, with its own k; to be compared only with the other form of the same points."""
    condition: float
    """Of the Jacobian with normalised columns: how far the points are from telling the parameters apart."""
    identifiable: bool
    """``condition`` is below 1,000, and the interval of A0 is within 0 and 1: else very different parameters, and
    limits, draw the same curve."""
    intervals: dict[str, tuple[float, float]]
    """95 % of each parameter where ``identifiable``, and of ``last_ratio``, the law at the last point, always."""

    def __call__(self, tokens: Float[np.ndarray, " n"] | Sequence[float]) -> Float[np.ndarray, " n"]:
        """The activation ratio after so many tokens."""
        d, its = np.asarray(tokens, dtype=np.float64) / _UNIT, self.parameters
        if self.form == "relu":
            return np.asarray(np.exp(-its["c"] * d ** its["alpha"] + its["b"]) + its["A0"])
        return np.asarray(its["A0"] - its["c"] * d ** -its["alpha"])


def fit_activation_ratio(
    tokens_seen: Sequence[float] | Float[np.ndarray, " n"],
    ratio: Sequence[float] | Float[np.ndarray, " n"],
    *,
    form: Form,
) -> ActivationLaw:
    """Least squares of one form.

    Args:
        tokens_seen: above 0, each once; the paper leaves the points of the warm-up out.
        ratio: share of active neurons, 1 minus sparsity.
        form: relu or silu, whichever the activation function is; both may be tried, their AIC compared.

    Raises:
        ValueError: fewer than six points, tokens that are not positive or repeated, ratios outside 0 to 1.

    Example:
        >>> import numpy as np
        >>> from interp.sparsity import fit_activation_ratio
        >>> tokens = np.geomspace(1e8, 1e11, 20)
        >>> law = fit_activation_ratio(tokens, 0.409 - 0.102 / (tokens / 1e9) ** 0.479, form="silu")
        >>> round(law.parameters["A0"], 3), law.identifiable
        (0.409, True)
    """
    d, y = _checked(tokens_seen, ratio, form)
    last = float(d[-1])
    of = problem(_FORMS[form], d / last)
    starts = of.valleys(y, _STARTS, allowed=lambda linear: linear[..., 0] > 0)
    solutions = [each for each in (of.polish(y, start.nonlinear) for start in starts) if each.linear[0] > 0]
    count, total = 4 if form == "relu" else 3, float(((y - y.mean()) ** 2).sum())
    if solutions:
        best = min(solutions, key=lambda each: each.squared_error)
        fitted, parameters, jacobian, figures = _RELU_SILU[form](best, d / last, last)
    else:
        fitted, jacobian = np.full_like(y, y.mean()), np.ones((len(y), 1))
        parameters = {"c": 0.0, "alpha": 1.0} | ({"b": -np.inf} if form == "relu" else {}) | {"A0": float(y.mean())}
        figures = {}
    residuals = y - fitted
    figures = figures | {"last_ratio": (float(fitted[-1]), jacobian[-1])}
    half = half_widths(jacobian, residuals, np.stack([gradient for _, gradient in figures.values()]))
    ends = {}
    with np.errstate(over="ignore"):
        for (name, (value, _)), width in zip(figures.items(), half.tolist(), strict=True):
            ends[name] = (value - width, value + width)
            if name in _LOGARITHMS:
                ends[name] = (float(np.exp(value - width)), float(np.exp(value + width)))
    condition = float(np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0))) if solutions else float("inf")
    low, high = ends.get("A0", (-np.inf, np.inf))
    identifiable = condition < _MAX_CONDITION and 0 <= low <= high <= 1
    rss = max(float(residuals @ residuals), 1e-300)
    return ActivationLaw(
        form=form,
        n=len(d),
        parameters=parameters,
        last=last,
        r2=1 - rss / total if total else float("nan"),
        aic=len(d) * float(np.log(rss / len(d))) + 2 * count,
        condition=condition,
        identifiable=bool(identifiable),
        intervals={name: each for name, each in ends.items() if identifiable or name == "last_ratio"},
    )


_LOGARITHMS = ("c", "alpha")
Figures = dict[str, tuple[float, Float[np.ndarray, " p"]]]
"""Of each figure its value, c and alpha as logarithms, and its derivatives by what the Jacobian is by."""


def _of_relu(
    found: Solution, u: Float[np.ndarray, " n"], last: float
) -> tuple[np.ndarray, dict[str, float], np.ndarray, Figures]:
    """Fitted values, parameters, Jacobian by the logarithms of c and alpha (in units of the last), b and A0."""
    (c, alpha), (amplitude, a0) = found.nonlinear.tolist(), found.linear.tolist()
    fall = c * u**alpha
    shape = amplitude * np.exp(-fall)
    jacobian = np.stack([-fall * shape, -fall * shape * alpha * np.log(u), shape, np.ones_like(u)], axis=1)
    parameters = {"c": c / last**alpha, "alpha": alpha, "b": float(np.log(amplitude)), "A0": a0}
    figures: Figures = {
        "c": (float(np.log(parameters["c"])), np.array([1.0, -alpha * np.log(last), 0, 0])),
        "alpha": (float(np.log(alpha)), np.array([0.0, 1, 0, 0])),
        "b": (parameters["b"], np.array([0.0, 0, 1, 0])),
        "A0": (a0, np.array([0.0, 0, 0, 1])),
    }
    return shape + a0, parameters, jacobian, figures


def _of_silu(
    found: Solution, u: Float[np.ndarray, " n"], last: float
) -> tuple[np.ndarray, dict[str, float], np.ndarray, Figures]:
    """Fitted values, parameters, Jacobian by the logarithms of c and alpha (in units of the last) and A0."""
    (alpha,), (c, a0) = found.nonlinear.tolist(), found.linear.tolist()
    shape = -c * u**-alpha
    jacobian = np.stack([shape, -alpha * np.log(u) * shape, np.ones_like(u)], axis=1)
    parameters = {"c": c * last**alpha, "alpha": alpha, "A0": a0}
    figures: Figures = {
        "c": (float(np.log(parameters["c"])), np.array([1.0, alpha * np.log(last), 0])),
        "alpha": (float(np.log(alpha)), np.array([0.0, 1, 0])),
        "A0": (a0, np.array([0.0, 0, 1])),
    }
    return shape + a0, parameters, jacobian, figures


_RELU_SILU = {"relu": _of_relu, "silu": _of_silu}


def _checked(tokens: Any, ratio: Any, form: str) -> tuple[np.ndarray, np.ndarray]:
    if form not in _FORMS:
        raise ValueError(f"form={form!r} is neither relu nor silu")
    d, y = np.asarray(tokens, dtype=np.float64) / _UNIT, np.asarray(ratio, dtype=np.float64)
    if d.ndim != 1 or d.shape != y.shape or len(d) < FEWEST_POINTS:
        raise ValueError(
            f"tokens and ratios have shapes {d.shape} and {y.shape}; give two of one length, {FEWEST_POINTS} or more"
        )
    if not (np.isfinite(d).all() and (d > 0).all() and len(set(d.tolist())) == len(d)):
        raise ValueError("tokens seen must be above 0 and each once: leave step 0 out")
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError("activation ratios are shares of neurons, from 0 to 1: pass 1 - sparsity")
    order = np.argsort(d)
    return d[order], y[order]
