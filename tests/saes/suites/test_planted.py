"""Planted features: what is drawn is what was asked, and both dictionaries have the scores that they must have."""

import pytest
import torch

from saes import SAE, TopK
from saes.suites import plant, recovery

HIERARCHY = {0: 5, 2: 3}


def test_rates_hierarchy_and_exclusion_are_as_planted() -> None:
    planted = plant(roots=6, children=HIERARCHY, d=16, seed=0, correlation=0.5)
    rows = planted.rows(40_000, seed=1)
    fires = rows.fires.float()
    spread = (planted.rates * (1 - planted.rates) / len(fires)).sqrt()
    assert ((fires.mean(0) - planted.rates).abs() < 4.5 * spread).all()
    assert planted.rates[:2].tolist() == pytest.approx([0.4, 0.4 * 2**-0.5])
    for parent in HIERARCHY:
        children = rows.fires[:, planted.children(parent)]
        assert not (children & ~rows.fires[:, [parent]]).any()
        assert children.sum(1).max() == 1
    assert torch.equal(rows.fires, planted.rows(40_000, seed=1).fires)
    assert not torch.equal(rows.fires, planted.rows(40_000, seed=2).fires)


def test_features_with_common_factors_fire_together() -> None:
    """Against the copula's closed form for medians: P(both) = 1/4 + asin(rho) / 2 pi."""
    planted = plant(roots=6, d=8, seed=3, correlation=0.9, top_rate=0.5, exponent=0.0)
    fires = planted.rows(60_000, seed=4).fires.double()
    together = fires.T @ fires / len(fires)
    rho = planted.factors @ planted.factors.T
    expected = 0.25 + rho.double().asin() / (2 * torch.pi)
    off = ~torch.eye(6, dtype=torch.bool)
    assert (together - expected)[off].abs().max() < 0.01
    assert rho[off].abs().max() > 0.5


def test_rows_are_sums_of_directions() -> None:
    planted = plant(roots=5, d=9, seed=0, low=0.5, high=2.0, noise=0.0)
    rows = planted.rows(100, seed=0)
    assert torch.allclose(rows.x, rows.coefficients @ planted.directions, atol=1e-6)
    sizes = rows.coefficients[rows.fires]
    assert 0.5 <= sizes.min() < 0.7
    assert 1.8 < sizes.max() <= 2.0


def test_the_true_dictionary_scores_one() -> None:
    planted = plant(roots=12, children=HIERARCHY, d=32, seed=0, low=0.8, high=1.6)
    found = recovery(planted.true_dictionary(), planted, planted.rows(2_000, seed=1))
    assert found.cosine.value == pytest.approx(1, abs=1e-5)
    assert found.f1.value == 1
    assert found.cosine.n == len(planted.directions)
    assert found.latents.tolist() == list(range(20))
    assert found.absorbed is not None
    assert found.absorbed.value == pytest.approx(0, abs=1e-5)
    assert found.silent is not None
    assert found.silent.value == 0


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_an_absorbing_dictionary_has_its_planted_absorption(strength: float) -> None:
    """Two of root 0's five children absorb: 2/5 of the rows with a child, less those of root 2's."""
    planted = plant(roots=4, children=HIERARCHY, d=16, seed=0, noise=0.0)
    absorbing = planted.absorbing_dictionary({4: strength, 5: strength})
    rows = planted.rows(3_000, seed=1)
    assert torch.allclose(absorbing(rows.x), rows.x, atol=1e-5)
    found = recovery(absorbing, planted, rows)
    pairs = rows.fires[:, 4:].sum()
    taken = rows.fires[:, 4:6].sum()
    assert found.absorbed is not None
    assert found.absorbed.value == pytest.approx(strength * float(taken / pairs), rel=1e-4)
    assert found.silent is not None
    assert found.silent.value == pytest.approx(float(taken / pairs) if strength == 1 else 0)
    assert found.silent.n == (rows.fires[:, 4:].any(1)).sum()
    own = rows.fires[:, 0] & ~rows.fires[:, 4:6].any(1) if strength == 1 else rows.fires[:, 0]
    recall = float(own.sum() / rows.fires[:, 0].sum())
    assert float(found.f1s[0]) == pytest.approx(2 * recall / (1 + recall))


def test_a_random_dictionary_and_a_small_one_score_low() -> None:
    planted = plant(roots=40, d=64, seed=0)
    rows = planted.rows(1_000, seed=1)
    random = SAE(64, 40, TopK(4)).initialise(seed=5, mean=torch.zeros(64))
    found = recovery(random, planted, rows)
    assert found.cosine.value < 0.4
    assert found.f1.value < 0.4
    few = planted.true_dictionary()
    half = SAE(64, 20, few.activation, subtract_b_dec=False)
    with torch.no_grad():
        half.W_enc.copy_(few.W_enc[:, :20])
        half.W_dec.copy_(few.W_dec[:20])
        half.threshold.copy_(few.threshold[:20])
    found = recovery(half, planted, rows)
    assert found.cosine.value == pytest.approx(0.5, abs=1e-5)
    assert found.f1.value == pytest.approx(0.5)
    assert found.latents[20:].tolist() == [-1] * 20


def test_superposition_is_drawn_and_its_absorption_refused() -> None:
    planted = plant(roots=40, children={0: 2}, d=8, seed=0)
    assert not planted.orthonormal
    found = recovery(planted.true_dictionary(), planted, planted.rows(500, seed=1))
    assert found.cosine.value == pytest.approx(1, abs=1e-5)
    assert found.f1.value < 0.9
    assert found.absorbed is None
    assert found.silent is not None
    with pytest.raises(ValueError, match="not orthonormal; plant no more than d"):
        planted.absorbing_dictionary({40: 1.0})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"roots": 0}, "each must be 1 or more"),
        ({"top_rate": 1.5}, "top_rate = 1.5"),
        ({"correlation": 1.0}, "correlation = 1.0"),
        ({"children": {9: 1}}, "parents are roots, 0 to 3"),
        ({"low": 2.0}, "coefficients from 2.0 to 1.0"),
        ({"child_share": 1.5}, "child_share = 1.5"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, object], message: str) -> None:
    options = {"roots": 4, "d": 8, "seed": 0} | wrong
    with pytest.raises(ValueError, match=message):
        plant(**options)  # type: ignore[arg-type]


def test_wrong_children_and_widths_are_named() -> None:
    planted = plant(roots=4, children={0: 1}, d=8, seed=0)
    with pytest.raises(ValueError, match=r"feature 1 with strength 1\.0: name a child"):
        planted.absorbing_dictionary({1: 1.0})
    with pytest.raises(ValueError, match="maps 9 to 9 dimensions, the planted rows have 8"):
        recovery(SAE(9, 4, TopK(1)), planted, planted.rows(10, seed=0))
