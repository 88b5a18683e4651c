"""The emergence curve: closed forms, planted curves recovered, classes, rivals, and what cannot be identified."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import lambertw
from scipy.stats import t as student

from interp.trajectory.curve_intervals import PARAMETERS, _figures, curve_intervals, linearised
from interp.trajectory.emergence_curve import EmergenceCurve
from interp.trajectory.fitting import fit, fit_all
from interp.trajectory.rival_curves import RIVALS, second_order

LAST = 143_000
# As many steps as the published fits have: 0 and powers of two to 512, then evenly to the end.
STEPS = np.array([0, *(2**i for i in range(10)), *np.round(np.linspace(1, 143, 26)) * 1000], dtype=float)
FINE = np.linspace(0, LAST, 20_001)
RELEASED = EmergenceCurve(A=0.19914, lam=0.124516, gamma=1.124350e-4, t0=0.621219, K=0.121935)
"""Published fit of Pythia-410m's median, layer 0."""


def planted(rng: np.random.Generator) -> EmergenceCurve:
    amplitude = 10 ** rng.uniform(1.5, 3.2)
    return EmergenceCurve(
        A=amplitude,
        lam=10 ** rng.uniform(-2.5, -0.3),
        gamma=10 ** rng.uniform(-4.3, -3.3),
        t0=rng.uniform(0.5, 2),
        K=rng.uniform(0, 0.3) * amplitude,
    )


# Closed forms


def test_the_published_fit_peaks_where_the_paper_says() -> None:
    assert RELEASED.peak_step == pytest.approx(38_890.1, abs=0.1)
    curve = EmergenceCurve(A=0.19914, lam=0.1245, gamma=1.1243e-4, t0=0.6212, K=0.121935)
    assert curve.peak_step == pytest.approx(38_895.55, abs=0.05)
    assert abs(curve.peak_step - FINE[curve(FINE).argmax()]) < FINE[1]
    assert curve.peak_height == pytest.approx(curve(FINE).max(), rel=1e-6)
    assert curve.peak_height == pytest.approx(curve(np.array([curve.peak_step]))[0], rel=1e-12)


@pytest.mark.parametrize("lam", [1e-12, 1e-3, 0.1, 1.0, 50.0])
def test_both_forms_of_the_peak_and_its_condition(lam: float) -> None:
    x = EmergenceCurve(A=1.0, lam=lam, gamma=1.0, t0=0.0, K=0.0).peak_step
    assert x == pytest.approx(float(np.exp(lambertw(1 / lam).real)), rel=1e-9)
    assert lam * x * np.log(x) == pytest.approx(1, rel=1e-9)


def test_without_decay_there_is_no_peak() -> None:
    curve = EmergenceCurve(A=1.0, lam=0.0, gamma=1.0, t0=1.0, K=0.0)
    assert curve.peak_step == curve.peak_height == np.inf


def test_jacobian_against_finite_differences() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = planted(rng)
        for column, name in enumerate(PARAMETERS):
            value = getattr(curve, name)
            h = 1e-6 * (abs(value) or 1)
            up, down = (EmergenceCurve(**{**vars(curve), name: value + sign * h}) for sign in (1, -1))
            numeric = (up(STEPS) - down(STEPS)) / (2 * h)
            exact = curve.jacobian(STEPS)[:, column]
            assert np.abs(numeric - exact).max() < 1e-6 * np.abs(exact).max()


def test_reparametrisation_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        curve = planted(rng)
        beta, tau0, slope, intercept, asymptote = curve.reparametrised()
        same = np.exp(-beta * STEPS) * (slope * np.log(STEPS + tau0) + intercept) + asymptote
        assert np.abs(same - curve(STEPS)).max() < 1e-9 * np.ptp(same)
        again = EmergenceCurve.from_reparametrised(beta, tau0, slope, intercept, asymptote)
        assert [getattr(again, n) for n in PARAMETERS] == pytest.approx([getattr(curve, n) for n in PARAMETERS], 1e-9)


# Recovery


@pytest.mark.parametrize(("noise", "worst"), [(0.0, 1 - 1e-6), (0.02, 0.999), (0.05, 0.99)])
def test_planted_curves_are_recovered(noise: float, worst: float) -> None:
    """Acceptance 1: 100 of 100 above 0.99 at every level, and the maximum is where it was put."""
    rng = np.random.default_rng(0)
    misses = []
    for _ in range(100):
        curve = planted(rng)
        values = curve(STEPS)
        values = values + noise * values.std() * rng.standard_normal(len(values))
        found = fit(STEPS, values)
        assert found.r2 > worst
        assert found.r2 == pytest.approx(1 - ((found.curve(STEPS) - values) ** 2).mean() / values.var(), abs=1e-9)
        misses.append(abs(FINE[found.curve(FINE).argmax()] - FINE[curve(FINE).argmax()]) / LAST)
    assert np.median(misses) < 0.002


def test_parameters_are_recovered_where_the_peak_is_in_the_window() -> None:
    """Acceptance 2: elsewhere only the curve is."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(100):
        curve = planted(rng)
        found = fit(STEPS, curve(STEPS))
        assert np.sqrt(((found.curve(FINE) - curve(FINE)) ** 2).mean()) < 1e-3 * curve(FINE).std()
        if 0 < curve.peak_step < LAST:
            inside += 1
            for name in PARAMETERS:
                assert getattr(found.curve, name) == pytest.approx(getattr(curve, name), rel=1e-3)
    assert inside > 50


@pytest.mark.slow
def test_classes_of_planted_curves() -> None:
    """Acceptance 4: peaks not within 0.85 to 1.3 of the last step, 2 % noise, at least 98 % right."""
    rng, right, n = np.random.default_rng(0), 0, 0
    while n < 200:
        curve = planted(rng)
        if 0.85 * LAST < curve.peak_step < 1.3 * LAST:
            continue
        expected = "decay" if curve.peak_step <= 0 else "early_peak" if curve.peak_step < LAST else "log_increase"
        values = curve(STEPS)
        found = fit(STEPS, values + 0.02 * values.std() * rng.standard_normal(len(values)))
        n += 1
        right += found.layer_class == expected
    assert right >= 196


def test_units_do_not_matter() -> None:
    values = RELEASED(STEPS) + 0.001 * np.sin(STEPS)
    one = fit(STEPS, values)
    other = fit(STEPS * 10, values * 1e4 - 77)
    assert other.peak_step == pytest.approx(10 * one.peak_step, rel=1e-6)
    assert other.peak_height == pytest.approx(one.peak_height * 1e4 - 77, rel=1e-6)
    scaled = (other.curve.A, other.r2, other.condition)
    assert scaled == pytest.approx((one.curve.A * 1e4, one.r2, one.condition), rel=1e-5)


def test_order_of_the_steps_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(STEPS))
    values = RELEASED(STEPS)
    assert fit(STEPS[order], values[order]) == fit(STEPS, values)


# What can be known


def test_what_is_identifiable() -> None:
    early = fit(STEPS, EmergenceCurve(A=100.0, lam=0.3, gamma=2e-4, t0=1.0, K=10.0)(STEPS))
    assert early.identifiable
    assert early.condition < 300
    rising = fit(STEPS, EmergenceCurve(A=100.0, lam=0.005, gamma=1e-4, t0=1.0, K=10.0)(STEPS))
    assert rising.layer_class == "log_increase"
    assert not rising.identifiable
    assert rising.condition > 1e3
    assert rising.class_agrees


def test_condition_is_that_of_the_normalised_jacobian() -> None:
    found = fit(STEPS, RELEASED(STEPS))
    columns = RELEASED.jacobian(STEPS)
    assert found.condition == pytest.approx(np.linalg.cond(columns / np.linalg.norm(columns, axis=0)), rel=1e-6)


SHARP = EmergenceCurve(A=100.0, lam=0.3, gamma=0.0038804, t0=1.0, K=10.0)
"""Peaks at step 520 of 143,000: eight of 37 points tell all but the asymptote."""
EARLY = EmergenceCurve(A=100.0, lam=0.2, gamma=2e-4, t0=1.0, K=10.0)


def noise_of(kind: str, values: np.ndarray) -> np.ndarray:
    """Standard deviation of 2 % of the values' own, or of each value (as measured ratios and magnitudes have it)."""
    return 0.02 * (np.full(len(values), values.std()) if kind == "constant" else np.abs(values))


def truths(curve: EmergenceCurve) -> dict[str, float]:
    parameters = {name: getattr(curve, name) for name in PARAMETERS}
    at = {"peak_step": curve.peak_step, "peak_height": curve.peak_height, "final_value": float(curve(FINE[-1:])[0])}
    return parameters | at


def coverage(curves: Iterable[EmergenceCurve], kind: str) -> tuple[int, dict[str, float]]:
    """How many fits were identifiable, and in what share of those with an interval it held the truth."""
    rng, held, flagged = np.random.default_rng(0), defaultdict(list), 0
    for curve in curves:
        values = curve(STEPS)
        found = fit(STEPS, values + noise_of(kind, values) * rng.standard_normal(len(values)))
        flagged += found.identifiable
        for name, (low, high) in found.intervals.items():
            held[name].append(low <= truths(curve)[name] <= high)
    return flagged, {name: float(np.mean(each)) for name, each in held.items()}


def test_intervals_of_a_sharp_early_peak_hold_the_truth() -> None:
    """Noise in proportion to the values: pooled over all points it would be that of the flat rest, and intervals of the
    peak step would hold the truth in 8 of 24."""
    assert SHARP.peak_step == pytest.approx(520, abs=1)
    flagged, held = coverage([SHARP] * 24, "proportional")
    assert flagged >= 18
    assert set(held) == {*PARAMETERS, "peak_step", "peak_height", "final_value"}
    assert all(share >= 0.8 for share in held.values()), held


def mixed_early_peaks(n: int) -> Iterable[EmergenceCurve]:
    rng = np.random.default_rng(1)
    while n:
        curve = replace(planted(rng), gamma=10 ** rng.uniform(-4.3, -2))
        if 0 < curve.peak_step < 0.3 * LAST:
            n -= 1
            yield curve


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["proportional", "constant"])
@pytest.mark.parametrize("curves", ["sharp", "mixed", "wide"])
def test_coverage_of_all_intervals(curves: str, kind: str) -> None:
    """95 % by name; with 100 fits 0.87 is more than three standard deviations of the count below it."""
    n = 100
    series = {"sharp": [SHARP] * n, "wide": [EARLY] * n, "mixed": mixed_early_peaks(n)}[curves]
    flagged, held = coverage(series, kind)
    assert flagged >= 0.7 * n
    assert all(share >= 0.87 for share in held.values()), held


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["proportional", "constant"])
def test_coverage_of_the_last_value_of_rising_curves(kind: str) -> None:
    """Whose parameters cannot be known."""
    rng, n = np.random.default_rng(1), 100
    curves = [
        replace(planted(rng), lam=10 ** rng.uniform(-4, -3), gamma=10 ** rng.uniform(-4.5, -3.5)) for _ in range(n)
    ]
    flagged, held = coverage(curves, kind)
    assert flagged == 0
    assert list(held) == ["final_value"]
    assert held["final_value"] >= 0.87


def hc2_by_hand(columns: np.ndarray, residuals: np.ndarray) -> float:
    """Half an interval of the last fitted value, by plain matrices, with Bell and McCaffrey's degrees of freedom."""
    columns = columns / np.linalg.norm(columns, axis=0)
    inverse = np.linalg.inv(columns.T @ columns)
    hat = columns @ inverse @ columns.T
    pull = columns[-1] @ inverse @ columns.T
    spread = np.diag(pull**2 / (1 - np.diag(hat)))
    of_noise = (np.eye(len(hat)) - hat) @ spread @ (np.eye(len(hat)) - hat)
    freedom = np.trace(of_noise) ** 2 / np.trace(of_noise @ of_noise)
    return float(student.ppf(0.975, freedom) * np.sqrt(residuals @ spread @ residuals))


def test_the_interval_is_hc2_with_the_degrees_of_freedom_of_bell_and_mccaffrey() -> None:
    values = EARLY(STEPS)
    noisy = values + noise_of("proportional", values) * np.random.default_rng(0).standard_normal(len(values))
    found = fit(STEPS, noisy)
    half, last = hc2_by_hand(found.curve.jacobian(STEPS), noisy - found.curve(STEPS)), found.curve(FINE[-1:])[0]
    assert found.intervals["final_value"] == pytest.approx((last - half, last + half), rel=1e-5)


def test_gradients_of_the_figures_and_of_equation_14_against_finite_differences() -> None:
    for curve in (RELEASED, EARLY, SHARP):
        _, gradients = _figures(curve, float(LAST))
        exact = linearised(curve, STEPS)
        for column, value in enumerate(curve.reparametrised()):
            h = 1e-6 * abs(value)
            up, down = (
                EmergenceCurve.from_reparametrised(
                    *(v + sign * h * (i == column) for i, v in enumerate(curve.reparametrised()))
                )
                for sign in (1, -1)
            )
            numeric = (_figures(up, float(LAST))[0] - _figures(down, float(LAST))[0]) / (2 * h)
            assert gradients[:, column] == pytest.approx(numeric, rel=1e-5, abs=1e-6 * abs(gradients[:, column]).max())
            by_step = (up(STEPS) - down(STEPS)) / (2 * h)
            assert exact[:, column] == pytest.approx(by_step, rel=1e-5, abs=1e-6 * abs(exact[:, column]).max())


def test_a_logarithm_whose_gamma_has_run_away_keeps_its_last_interval() -> None:
    """Without decay A2 and K are one number, so four columns are left; by λ and gamma no float would hold any."""
    values = 100 * np.log(STEPS + 700) + np.random.default_rng(0).standard_normal(37)
    curve = EmergenceCurve.from_reparametrised(1e-17, 700.0, 100.0, 45_000.0, -45_000.0)
    assert curve.gamma > 1e190
    log = np.log(STEPS + 700)
    columns = np.stack([STEPS * (100 * log + 45_000), 1 / (STEPS + 700), log, np.ones_like(log)], axis=1)
    half = hc2_by_hand(columns, values - 100 * log)
    low, high = curve_intervals(curve, STEPS, values)["final_value"]
    assert (high - low) / 2 == pytest.approx(half, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(100 * log[-1], rel=1e-9)


def test_no_interval_of_what_is_not_identifiable() -> None:
    rising = EmergenceCurve(A=100.0, lam=0.005, gamma=1e-4, t0=1.0, K=10.0)(STEPS)
    rng = np.random.default_rng(0)
    assert list(fit(STEPS, rising + rng.standard_normal(37)).intervals) == ["final_value"]
    assert fit(STEPS, rng.standard_normal(37)).intervals == {}
    loud = [fit(STEPS, SHARP(STEPS) * (1 + 0.06 * rng.standard_normal(37))) for _ in range(5)]
    wide = [found for found in loud if found.layer_class == "early_peak" and not found.identifiable]
    assert min(found.condition for found in wide) < 1000, "the intervals are wider than a factor of ten"
    assert all(list(found.intervals) == ["final_value"] for found in wide)


# Classes by shape


def test_shapes() -> None:
    u = STEPS / LAST
    assert fit(STEPS, np.exp(-5 * u)).layer_class == "decay"
    assert fit(STEPS, np.log(u + 0.01)).layer_class == "log_increase"
    convex = fit(STEPS, u**2)
    assert convex.r2 >= convex.rivals["first_order"].r2 - 0.01, "near the edge of A > 0, where the grid has no point"
    trough = fit(STEPS, (u - 0.5) ** 2)
    noise = fit(STEPS, np.random.default_rng(0).standard_normal(len(u)))
    constant = fit(STEPS, np.full(len(u), 3.0))
    assert trough.layer_class == noise.layer_class == constant.layer_class == "other"
    assert not any(found.identifiable for found in (trough, noise, constant))
    assert constant.final_value == pytest.approx(3)


def test_a_largest_value_elsewhere_is_flagged() -> None:
    values = EmergenceCurve(A=100.0, lam=0.005, gamma=1e-4, t0=1.0, K=10.0)(STEPS)
    values[20] = values.max() * 1.02
    found = fit(STEPS, values)
    assert found.layer_class == "log_increase"
    assert found.empirical_peak_step == STEPS[20]
    assert not found.class_agrees


@pytest.mark.parametrize("kind", ["proportional", "constant"])
def test_the_noise_of_a_flat_top_is_no_disagreement(kind: str) -> None:
    """Of rising curves the largest value is seldom the last one."""
    rng, elsewhere, flagged = np.random.default_rng(0), 0, 0
    for _ in range(40):
        curve = replace(planted(rng), lam=1e-3, gamma=10 ** rng.uniform(-3.5, -3))
        values = curve(STEPS)
        found = fit(STEPS, values + noise_of(kind, values) * rng.standard_normal(len(values)))
        if found.layer_class == "log_increase":
            elsewhere += found.empirical_peak_step != LAST
            flagged += not found.class_agrees
    assert elsewhere > 10
    assert flagged <= 1


# Rivals


@pytest.mark.parametrize(
    ("name", "nonlinear"),
    [
        ("logarithm", (0.03,)),
        ("first_order", (0.1,)),
        ("second_order", (20.0, 0.3)),
        ("second_order", (20.0, 3.0)),
        ("second_order", (20.0, 1.0)),
    ],
)
def test_each_rival_wins_on_its_own_curve(name: str, nonlinear: tuple[float, ...]) -> None:
    """Nearly always: AIC takes the larger of two nested forms now and then, by its nature."""
    model, wins = RIVALS[name], 0
    values = model.basis(STEPS / LAST, *map(np.float64, nonlinear)) @ np.array([7.0, 100.0])
    for seed in range(10):
        noise = np.random.default_rng(seed).standard_normal(len(values))
        found = fit(STEPS, values + 0.3 * noise)
        wins += found.best_form == name
        parameters = found.rivals[name].parameters
        assert [parameters["y0"], parameters["gain"]] == pytest.approx([7, 100], rel=0.1)
        assert list(parameters.values())[2:] == pytest.approx(nonlinear, rel=0.2)
    assert wins >= 6


def test_the_emergence_curve_wins_on_its_own() -> None:
    curve, rng = EmergenceCurve(A=100.0, lam=0.2, gamma=2e-4, t0=1.0, K=10.0), np.random.default_rng(0)
    values = curve(STEPS)
    found = fit(STEPS, values + 0.01 * values.std() * rng.standard_normal(len(values)))
    assert found.best_form == "emergence"
    assert found.aic < min(rival.aic for rival in found.rivals.values()) - 10


def test_second_order_solves_its_differential_equation() -> None:
    """y'' + 2 ζ ω y' + ω² y = ω², from rest."""
    u = np.linspace(0, 1, 20_001)
    h = u[1]
    for zeta in (0.2, 1.0, 2.5):
        y = second_order(u, np.float64(15.0), np.float64(zeta))[:, 1]
        rate, bend = np.gradient(y, h)[2:-2], np.gradient(np.gradient(y, h), h)[2:-2]
        assert np.abs(bend + 2 * zeta * 15 * rate + 225 * (y[2:-2] - 1)).max() < 0.1
        assert abs(y[0]) < 1e-12


def test_aic_by_hand() -> None:
    values = RELEASED(STEPS) + 0.01 * np.sin(STEPS)
    found = fit(STEPS, values)
    rss = ((found.curve(STEPS) - values) ** 2).sum()
    assert found.aic == pytest.approx(37 * np.log(rss / 37) + 10, rel=1e-6)
    tau = found.rivals["logarithm"].parameters
    rss = ((tau["y0"] + tau["gain"] * np.log(STEPS / LAST + tau["tau"]) - values) ** 2).sum()
    assert found.rivals["logarithm"].aic == pytest.approx(37 * np.log(rss / 37) + 6, rel=1e-6)


# Use


def test_many_series_over_processes() -> None:
    rng = np.random.default_rng(0)
    series = np.stack([planted(rng)(STEPS) for _ in range(4)])
    together = fit_all(STEPS, series, processes=2)
    assert together == [fit(STEPS, row) for row in series]


@pytest.mark.parametrize(
    ("steps", "values", "message"),
    [
        ([0, 1, 2], [1, 2, 3], "3 points cannot determine five parameters"),
        (range(8), range(7), r"two lists of one length, not of shapes \(8,\) and \(7,\)"),
        (range(8), [1.0] * 7 + [np.nan], "must be finite"),
        ([0, 1, 1, 2, 3, 4, 5], range(7), "each once"),
        ([-1, 1, 2, 3, 4, 5, 6], range(7), "must be 0 or more"),
    ],
)
def test_nonsense_is_refused(steps: Iterable[float], values: Iterable[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(list(steps), list(values))
