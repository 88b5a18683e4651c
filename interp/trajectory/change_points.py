"""When a curve over training changes, and which of several changes first.

A curve is the mean of a measure over sequences, at each checkpoint. Its change point is where two constant levels fit
it best over the logarithm of the step; how sure that is, a bootstrap over sequences says, with the same draws for all
curves. It says nothing of how another seed of the training would come out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.metrics import Estimate

CLEAR_EXPLAINED = 0.5
CLEAR_ERRORS = 4.0


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """Two levels and where the one becomes the other.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import change_points
        >>> curve = np.array([0, 0, 0, 1, 1, 1.0]).repeat(20).reshape(6, 20)
        >>> change_points([1, 2, 4, 8, 16, 32], {"curve": curve}).points["curve"].between
        (4, 8)
    """

    step: float
    """Geometric middle of the two checkpoints between which the level changes."""
    between: tuple[int, int]
    """Steps of these two checkpoints, the last at the old level and the first at the new one."""
    interval: tuple[float, float]
    """Of 95 % of the bootstrap draws: the smallest and the largest step."""
    before: float
    """Mean of the curve before, over the logarithm of the step."""
    after: float
    """Mean of the curve afterwards, over the logarithm of the step."""
    size: Estimate
    """The level after minus the level before, ± over bootstrap draws."""
    explained: float
    """Share of the curve's variance that the two levels explain: 1 for a jump, 0.75 for a straight line."""

    @property
    def clear(self) -> bool:
        """Whether the curve changes at all: half of its variance explained, and a size above 4 standard errors."""
        return self.explained >= CLEAR_EXPLAINED and abs(self.size) > CLEAR_ERRORS * self.size.standard_error


@dataclass(frozen=True, kw_only=True)
class ChangePoints:
    """Change points of curves of one training, and their order.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import change_points
        >>> first, second = (np.repeat([0] * n + [1.0] * (6 - n), 20).reshape(6, 20) for n in (2, 4))
        >>> found = change_points([1, 2, 4, 8, 16, 32], {"second": second, "first": first})
        >>> found.order, found.earlier["first"]["second"]
        (('first', 'second'), 1.0)
    """

    points: dict[str, ChangePoint]
    """Name of the curve -> where it changes."""
    earlier: dict[str, dict[str, float]]
    """Share of bootstrap draws in which the first curve changes at an earlier checkpoint than the second."""
    n: int
    """Sequences that every curve is a mean over."""

    @property
    def order(self) -> tuple[str, ...]:
        """Curves that change clearly, the earliest first."""
        clear = [name for name, point in self.points.items() if point.clear]
        return tuple(sorted(clear, key=lambda name: self.points[name].step))


def change_points(
    steps: Sequence[int] | Int[np.ndarray, " _steps"],
    rows: Mapping[str, Float[np.ndarray, "_steps _sequences"]],
    *,
    since: Mapping[str, int] | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
) -> ChangePoints:
    """Fit two levels to each curve, and say in which order they change.

    Each checkpoint counts as much as the stretch of log step around it, so that a schedule with many late checkpoints
    does not pull the change towards them. Step 0 has no logarithm and is left out.

    Args:
        steps: ascending, of the checkpoints.
        rows: for each curve its values on every sequence; NaN where it has none. Curves on the same sequences are drawn
            together, so all must have as many.
        since: curve -> first step that counts, for those that change more than once.
        bootstraps: draws of the sequences.
        seed: of the draws.

    Raises:
        ValueError: fewer than 4 checkpoints that count, 2 sequences or 2 draws; steps that do not ascend; curves of
            other shapes.

    Example:
        >>> import numpy as np
        >>> from interp.trajectory import change_points
        >>> steps = 2 ** np.arange(10)
        >>> late, early = (np.repeat(steps[:, None] > at, 20, 1).astype(float) for at in (100, 10))
        >>> found = change_points(steps, {"late": late, "early": early})
        >>> found.order, found.points["late"].between
        (('early', 'late'), (64, 128))
    """
    known = np.asarray(steps)
    shapes = {name: np.shape(each) for name, each in rows.items()}
    if not rows or any(len(s) != 2 or s[0] != len(known) or not s[1] for s in shapes.values()):
        raise ValueError(f"rows have the shapes {shapes}; give [{len(known)} steps, sequences] for each curve")
    if len({shape[1] for shape in shapes.values()}) > 1:
        raise ValueError(f"rows have the shapes {shapes}; all must be of as many sequences")
    if (np.diff(known) <= 0).any():
        raise ValueError(f"steps are {known.tolist()[:12]}; they must ascend")
    n = next(iter(shapes.values()))[1]
    if n < 2 or bootstraps < 2:
        raise ValueError(f"{n} sequences and {bootstraps} bootstraps say nothing of how sure a change is; give 2")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=bootstraps).astype(np.float64)
    counts = np.concatenate([np.ones((1, n)), counts])  # the curve itself, and then its draws
    points, changes = {}, {}
    for name, each in rows.items():
        kept = known >= max(1, (since or {}).get(name, 1))
        if kept.sum() < 4:
            raise ValueError(f"{name} has {kept.sum()} checkpoints that count after step 0; it takes 4")
        log = np.log(known[kept])
        curves = _means(np.asarray(each, dtype=np.float64)[kept], counts)
        split, before, after, explained = _two_levels(curves, log)
        middles = np.exp((log[split] + log[split + 1]) / 2)
        low, high = np.quantile(middles[1:], [0.025, 0.975], method="nearest")
        points[name] = ChangePoint(
            step=float(middles[0]),
            between=(int(known[kept][split[0]]), int(known[kept][split[0] + 1])),
            interval=(float(low), float(high)),
            before=float(before[0]),
            after=float(after[0]),
            size=Estimate(float(after[0] - before[0]), float((after - before)[1:].std(ddof=1)), n),
            explained=float(explained[0]),
        )
        changes[name] = known[kept][split[1:]]
    earlier = {a: {b: float((changes[a] < changes[b]).mean()) for b in rows if b != a} for a in rows}
    return ChangePoints(points=points, earlier=earlier, n=n)


def _means(
    values: Float[np.ndarray, "steps sequences"], counts: Float[np.ndarray, "draws sequences"]
) -> Float[np.ndarray, "draws steps"]:
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means = (counts @ np.where(there, values, 0).T) / (counts @ there.T.astype(np.float64))
    if not np.isfinite(means).all():
        raise ValueError("a curve has no value at some checkpoint, or on too few sequences; leave it out")
    return means


def _two_levels(
    curves: Float[np.ndarray, "draws steps"], log: Float[np.ndarray, " steps"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each draw: the last checkpoint of the first level, both levels, and the share of variance they explain."""
    weights = np.gradient(log)  # the stretch around each; of the first and the last there is half
    weights[[0, -1]] /= 2
    mass = weights.cumsum()
    left, right = mass[:-1], mass[-1] - mass[:-1]
    middle = curves @ weights / mass[-1]
    centred = curves - middle[:, None]
    sums = (centred * weights).cumsum(1)[:, :-1]  # of all it is 0, so that of the rest it is minus this
    gains = sums**2 * (1 / left + 1 / right)
    split = gains.argmax(1)
    draw = np.arange(len(curves))
    total = (centred**2 * weights).sum(1)
    explained = np.divide(gains[draw, split], total, out=np.zeros(len(curves)), where=total > 1e-20)
    part = sums[draw, split]
    return split, middle + part / left[split], middle - part / right[split], explained
