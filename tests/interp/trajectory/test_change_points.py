"""Planted changes are found where they are, in their order, and none where there is none."""

import numpy as np
import pytest

from interp.trajectory import change_points

STEPS = np.unique(np.geomspace(10, 10_000, 40).round().astype(int))
RNG = np.random.default_rng(0)


def jump(at: float, *, low: float = 0.2, high: float = 0.9, n: int = 400) -> np.ndarray:
    """Answers that are right more often from a step on, each sequence with its own luck at every checkpoint."""
    chance = np.where(at < STEPS, high, low)
    return (RNG.random((len(STEPS), n)) < chance[:, None]).astype(float)


def test_planted_changes_and_their_order() -> None:
    found = change_points(STEPS, {"late": jump(1500), "early": jump(90), "falls": jump(400, low=0.8, high=0.3)})
    assert found.order == ("early", "falls", "late")
    assert found.n == 400
    for name, at in (("late", 1500), ("early", 90), ("falls", 400)):
        point = found.points[name]
        assert point.between[0] <= at < point.between[1]
        assert point.interval[0] <= point.step <= point.interval[1]
        assert point.step == pytest.approx(np.sqrt(np.prod(np.array(point.between, float))))
        assert point.explained > 0.98
    assert found.points["late"].size == pytest.approx(0.7, abs=0.02)
    assert found.points["falls"].size == pytest.approx(-0.5, abs=0.02)
    assert found.earlier["early"] == {"late": 1.0, "falls": 1.0}
    assert found.earlier["late"] == {"early": 0.0, "falls": 0.0}


def test_levels_and_split_are_those_of_an_exhaustive_search() -> None:
    """Least squares with the stretch of log step around each checkpoint as its weight, in plain loops."""
    values = np.cumsum(RNG.normal(size=len(STEPS)))
    point = change_points(STEPS, {"walk": values[:, None].repeat(3, 1)}).points["walk"]
    log = np.log(STEPS)
    edges = np.concatenate([log[:1], (log[1:] + log[:-1]) / 2, log[-1:]])
    weights = np.diff(edges)
    costs = []
    for i in range(1, len(STEPS)):
        parts = [(values[:i], weights[:i]), (values[i:], weights[i:])]
        means = [np.average(v, weights=w) for v, w in parts]
        costs.append((sum((w * (v - m) ** 2).sum() for (v, w), m in zip(parts, means, strict=True)), i, means))
    cost, best, means = min(costs)
    assert point.between == (STEPS[best - 1], STEPS[best])
    assert [point.before, point.after] == pytest.approx(means)
    total = (weights * (values - np.average(values, weights=weights)) ** 2).sum()
    assert point.explained == pytest.approx(1 - cost / total)


def test_a_straight_line_explains_three_quarters() -> None:
    steps = 2 ** np.arange(60)
    found = change_points(steps, {"line": np.arange(60.0)[:, None].repeat(2, 1)}, bootstraps=5).points["line"]
    assert found.explained == pytest.approx(0.75, abs=0.001)
    assert found.size == pytest.approx(30, abs=0.5)


def test_noise_and_constants_do_not_change() -> None:
    rows = {"noise": jump(0, low=0.5, high=0.5), "constant": np.full((len(STEPS), 400), 0.3)}
    found = change_points(STEPS, rows)
    assert found.order == ()
    assert found.points["constant"].size == pytest.approx(0, abs=1e-12)


def test_the_same_answers_on_the_same_sequences_are_drawn_together() -> None:
    """Two curves that are equal change at the same checkpoint in every draw, however uncertain it is."""
    weak = jump(500, low=0.5, high=0.56, n=60)
    found = change_points(STEPS, {"a": weak, "b": weak.copy()})
    assert found.earlier == {"a": {"b": 0.0}, "b": {"a": 0.0}}
    low, high = found.points["a"].interval
    assert high > 2 * low


def test_a_second_change_is_found_after_the_first() -> None:
    twice = jump(60, low=0.0, high=0.5) * 0.9 + jump(3000, low=0.0, high=0.4) * 0.5
    whole = change_points(STEPS, {"twice": twice}).points["twice"]
    late = change_points(STEPS, {"twice": twice}, since={"twice": 100}).points["twice"]
    assert whole.between[0] <= 60 < whole.between[1]
    assert late.between[0] <= 3000 < late.between[1]


def test_values_that_are_missing_are_left_out() -> None:
    rows = jump(800)
    rows[:, ::3] = np.nan
    point = change_points(STEPS, {"part": rows}).points["part"]
    whole = change_points(STEPS, {"part": np.delete(rows, np.s_[::3], 1)}).points["part"]
    assert (point.between, point.before, point.after) == (whole.between, whole.before, whole.after)
    rows[4] = np.nan
    with pytest.raises(ValueError, match="no value at some checkpoint"):
        change_points(STEPS, {"part": rows})


def test_curves_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"give \[40 steps, sequences\]"):
        change_points(STEPS, {"a": np.zeros((3, 5))})
    with pytest.raises(ValueError, match="all must be of as many sequences"):
        change_points(STEPS, {"a": np.zeros((40, 5)), "b": np.zeros((40, 4))})
    with pytest.raises(ValueError, match="they must ascend"):
        change_points(STEPS[::-1], {"a": np.zeros((40, 5))})
    with pytest.raises(ValueError, match="a has 3 checkpoints that count"):
        change_points([0, 1, 2, 3], {"a": np.zeros((4, 5))})
    for columns, draws in ((1, 100), (5, 1)):
        with pytest.raises(ValueError, match="say nothing of how sure a change is"):
            change_points(STEPS, {"a": np.zeros((40, columns))}, bootstraps=draws)
