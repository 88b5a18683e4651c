"""When curves change: exact brackets of steps, noise that widens them, and an order that is honest about one gap."""

import numpy as np
import pytest

from interp.dynamics import change_of
from interp.dynamics.changes import probability_before, share_within

STEPS = np.array([0.0, 1, 4, 16, 64, 256, 1024, 4096])


def curve(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize("sign", [1.0, -3.0])
def test_a_step_is_found_between_its_checkpoints(sign: float) -> None:
    found = change_of(STEPS, 7 + sign * curve(0, 0, 0.02, 0.05, 0.11, 0.95, 1, 1), np.zeros(8))
    assert found.between == (64.0, 256.0)
    assert (found.begin, found.end) == (16.0, 256.0)
    assert found.clear
    assert found.rises == (sign > 0)
    assert found.shares[4] == pytest.approx(0.11)
    part = (0.5 - 0.11) / (0.95 - 0.11)
    assert found.half == pytest.approx(65 * (257 / 65) ** part - 1)
    assert share_within(found, STEPS, 64.0, 1024.0) == pytest.approx(0.89)


def test_a_peak_counts_to_its_top() -> None:
    found = change_of(STEPS, curve(1, 1, 3, 9, 5, 2, 1, 0), np.zeros(8))
    assert (found.extreme, found.at) == (9.0, 16.0)
    assert found.between == (4.0, 16.0)


def test_noise_widens_the_bracket_and_hides_small_changes() -> None:
    values = curve(0, 0, 0, 0, 0.45, 0.55, 1, 1)
    exact = change_of(STEPS, values, np.zeros(8))
    noisy = change_of(STEPS, values, np.full(8, 0.1))
    assert exact.between == (64.0, 256.0)
    assert noisy.between == (16.0, 1024.0)
    assert not change_of(STEPS, values, np.full(8, 0.4)).clear
    assert not change_of(STEPS, np.full(8, 3.0), np.zeros(8)).clear
    assert change_of(STEPS, values, np.full(8, np.nan)).between == exact.between, "without errors values are exact"


def test_noise_alone_is_seldom_a_change() -> None:
    """At 99 % for all checkpoints together, at most 8 of 200 (mean 2, and Poisson's tail)."""
    generator = np.random.default_rng(0)
    clear = sum(change_of(STEPS, generator.standard_normal(8), np.ones(8)).clear for _ in range(200))
    assert clear <= 8


def test_the_order_of_two_curves() -> None:
    early = change_of(STEPS, curve(0, 0, 1, 1, 1, 1, 1, 1), np.zeros(8), seed=1)
    late = change_of(STEPS, curve(0, 0, 0, 0, 0, 0, 1, 1), np.zeros(8), seed=2)
    same = change_of(STEPS, 5 - 2 * curve(0, 0, 0, 0, 0, 0.1, 0.9, 1), np.zeros(8), seed=3)
    assert probability_before(early, late) == 1
    assert probability_before(late, early) == 0
    assert probability_before(late, same) == pytest.approx(0.5, abs=0.08)


def test_bad_curves() -> None:
    for steps, values in ((STEPS[:2], STEPS[:2]), (STEPS[::-1], STEPS), (STEPS, np.full(8, np.inf))):
        with pytest.raises(ValueError, match="three or more finite values at ascending steps"):
            change_of(steps, values, np.zeros(len(steps)))
