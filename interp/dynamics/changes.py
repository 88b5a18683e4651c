"""When a curve over training changed, as far as checkpoints and noise tell.

Of every curve the whole change is that from its first value to the one farthest from it. What lies between two
checkpoints is not known, so that "when" is a bracket: the checkpoints around the place where half of the change is
done, widened by what noise allows (draws around the values with their standard errors). Within a bracket nothing is
known but the order of magnitude: the place is drawn evenly in the logarithm of the step.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

_DRAWS = 1000
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Change:
    """When and how far one curve changed."""

    first: float
    """Value at the first checkpoint."""
    extreme: float
    """The value farthest from it."""
    at: float
    """Step with that value."""
    clear: bool
    """Whether the change is beyond noise: 99 % of a normal distribution, for as many checkpoints as there are."""
    half: float
    """Step at which half of the change is done, interpolated in the logarithm between two checkpoints."""
    between: tuple[float, float]
    """Checkpoints between which that is, in 95 % of the draws."""
    begin: float
    """The last checkpoint before a tenth of the change is done."""
    end: float
    """The first checkpoint at which nine tenths of the change are done."""
    shares: tuple[float, ...]
    """Of every checkpoint the share of the change that is done; 0 at the first and 1 at ``at``."""
    draws: Float[np.ndarray, " draws"]
    """log(1 + step) of the half-way point, drawn."""

    @property
    def rises(self) -> bool:
        """Whether values grow."""
        return self.extreme > self.first


def change_of(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"], *, seed: int = 0
) -> Change:
    """When a curve changed.

    Args:
        steps: ascending, each once.
        values: one a step.
        errors: standard errors, NaN where a value has none, which counts as exact.
        seed: of the draws.

    Raises:
        ValueError: fewer than three points, or values that are not finite.

    Example:
        >>> import numpy as np
        >>> from interp.dynamics import change_of
        >>> steps = np.array([0.0, 10, 100, 1000, 10_000])
        >>> found = change_of(steps, np.array([0, 0, 0, 1.0, 1]), np.zeros(5))
        >>> found.between, found.clear
        ((100.0, 1000.0), True)
    """
    t, y, e = (np.asarray(each, dtype=np.float64) for each in (steps, values, errors))
    if len(t) < 3 or not (np.isfinite(t).all() and np.isfinite(y).all()) or (np.diff(t) <= 0).any():
        raise ValueError(f"{len(t)} points; give three or more finite values at ascending steps")
    e = np.where(np.isfinite(e), e, 0.0)
    generator = np.random.default_rng(seed)
    far = int(np.abs(y - y[0]).argmax())
    whole = float(y[far] - y[0])
    noise = float(np.hypot(e[far], e[0]))
    clear = abs(whole) > max(float(norm.ppf(1 - 0.005 / len(t))) * noise, 1e-9 * float(np.abs(y).max()), 1e-300)
    drawn = _half(y + e * generator.standard_normal((_DRAWS, len(t))))
    lows, highs = t[drawn - 1], t[drawn]
    edge = (1 - _LEVEL) / 2
    shares = (y - y[0]) / whole if whole else np.zeros_like(y)
    return Change(
        first=float(y[0]),
        extreme=float(y[far]),
        at=float(t[far]),
        clear=bool(clear),
        half=_interpolated(t, shares, int(_half(y[None])[0])),
        between=(
            float(np.quantile(lows, edge, method="lower")),
            float(np.quantile(highs, 1 - edge, method="higher")),
        ),
        begin=float(t[max(0, int((shares >= 0.1).argmax()) - 1)]),
        end=float(t[int((shares >= 0.9).argmax())]),
        shares=tuple(shares.tolist()),
        draws=generator.uniform(np.log1p(lows), np.log1p(highs)),
    )


def _half(curves: Float[np.ndarray, "curves n"]) -> Int[np.ndarray, " curves"]:
    """Of each curve the number of the first checkpoint at which half of the change is done; 1 of a constant."""
    moved = curves - curves[:, :1]
    far = np.abs(moved).argmax(1)
    whole = np.take_along_axis(moved, far[:, None], 1)
    return np.maximum(1, (np.where(whole == 0, 1.0, moved / np.where(whole == 0, 1.0, whole)) >= 0.5).argmax(1))


def _interpolated(t: np.ndarray, shares: np.ndarray, index: int) -> float:
    """The step at which the share is one half, in the logarithm between checkpoints."""
    step = shares[index] - shares[index - 1]
    part = (0.5 - shares[index - 1]) / step if step else 0.5
    low, high = np.log1p(t[index - 1]), np.log1p(t[index])
    return float(np.expm1(low + part * (high - low)))


def probability_before(one: Change, other: Change) -> float:
    """That the first is half-way before the second, by their draws; ½ where both are between the same checkpoints."""
    return float((one.draws < other.draws).mean())


def when(change: Change) -> str:
    """The bracket in words."""
    low, high = change.between
    return f"{low:,.0f} to {high:,.0f}"


def share_within(change: Change, steps: Any, begin: float, end: float) -> float:
    """Share of the whole change between two checkpoints."""
    at = {float(step): share for step, share in zip(steps, change.shares, strict=True)}
    return at[end] - at[begin]
