"""Each metric against a value worked out by hand."""

import copy
import math
from dataclasses import asdict, replace

import pytest
import torch

from interp import metrics


def test_mean_and_its_standard_error() -> None:
    estimate = metrics.mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert estimate.value == 2.5
    assert estimate.standard_error == pytest.approx(math.sqrt(5 / 3 / 4))
    assert estimate.n == 4
    assert str(metrics.Estimate(0.123456, 0.00123, 4)) == "0.1235 ± 0.0012"


def test_an_estimate_counts_as_its_value() -> None:
    estimate = metrics.Estimate(0.5, 0.1, 4)
    assert 0.4 < estimate < 0.6
    assert estimate == 0.5
    assert f"{estimate:.2f} {estimate}" == "0.50 0.5 ± 0.1"
    assert type(1 - estimate) is float
    assert torch.tensor([estimate]).tolist() == [0.5]
    for same in (copy.deepcopy(estimate), replace(estimate), metrics.Estimate(**asdict(estimate))):
        assert (same, same.standard_error, same.n) == (estimate, 0.1, 4)
    assert estimate != metrics.Estimate(0.5, 0.2, 4)
    assert len({estimate, metrics.Estimate(0.5, 0.1, 4), metrics.Estimate(0.5, 0.2, 4)}) == 2


def test_groups_make_repeated_rows_count_once() -> None:
    values, groups = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.arange(4)
    once = metrics.mean(values, groups=groups)
    thrice = metrics.mean(values.repeat(3), groups=groups.repeat(3))
    assert once == metrics.mean(values)
    assert thrice.standard_error == pytest.approx(once.standard_error)
    assert thrice.n == 4


def test_one_unit_says_nothing_of_the_spread() -> None:
    one = metrics.mean(torch.ones(1))
    assert math.isnan(one.standard_error)
    assert str(one) == "1 (n = 1)"
    alone = metrics.ratio(torch.ones(5), torch.ones(5), groups=torch.zeros(5, dtype=torch.long), blocks=False)
    assert math.isnan(alone.standard_error)


@pytest.mark.parametrize("documents", [1, 3])
def test_few_documents_give_way_to_blocks_whose_error_is_that_of_the_series(documents: int) -> None:
    """Means of 400 autoregressive series: their spread is what the standard errors say, to 15 %, and five times what
    independent tokens would."""
    n, rho, runs = 2500, 0.9, 400
    noise = torch.randn(runs, n + 200, generator=torch.Generator().manual_seed(0))
    series = torch.zeros_like(noise)
    for i in range(1, noise.shape[1]):
        series[:, i] = rho * series[:, i - 1] + noise[:, i]
    series, groups = series[:, 200:], torch.arange(n) * documents // n
    found = [metrics.mean(row, groups=groups) for row in series]
    assert {(each.n, each.blocks) for each in found} == {(50, True)}
    spread, said = float(series.mean(1).std()), sum(each.standard_error for each in found) / runs
    assert said == pytest.approx(spread, rel=0.15)
    assert said > 3.5 * sum(metrics.mean(row).standard_error for row in series) / runs
    assert found[0].units("documents") == "50 blocks of neighbouring tokens (fewer than 5 documents)"
    assert metrics.mean(series[0], groups=torch.arange(n) // 500).units("documents") == "5 documents"


def test_blocks_keep_documents_together_that_are_scattered() -> None:
    units, blocks = metrics.independent_units(torch.tensor([7, 3] * 50))
    assert blocks
    assert torch.bincount(units).tolist() == [10] * 10
    assert set(units[1::2].tolist()) == set(range(5)), "document 3 comes first"


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(3)])
def test_nothing_to_divide_by(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="nothing to divide by"):
        metrics.ratio(torch.ones_like(values), values)


def test_fvu_is_about_the_mean_and_pooled() -> None:
    x = torch.tensor([[10.0, 0.0], [12.0, 0.0], [10.0, 4.0], [12.0, 4.0]])  # variance 1 and 4 about the mean
    assert metrics.fvu(x, x).value == 0
    assert metrics.fvu(x, x.mean(0).expand_as(x)).value == pytest.approx(1.0)
    half_off = metrics.fvu(x, x + 0.5)
    assert half_off.value == pytest.approx(2 * 0.25 / (1 + 4))
    assert half_off.standard_error == pytest.approx(0.0, abs=1e-9)
    assert metrics.explained_variance(half_off).value == pytest.approx(0.9)


def test_fvu_of_an_offset_does_not_hide_the_error() -> None:
    """The specification's example: an uncentred denominator would say 1.4e-4."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 8, generator=generator) + 10 * torch.arange(8)
    noise = 0.5 * torch.randn(20_000, 8, generator=generator)
    assert metrics.fvu(x, x + noise).value == pytest.approx(0.25, rel=0.02)


def test_mse_cosine_l0() -> None:
    x, x_hat = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[4.0, 3.0], [2.0, 0.0]])
    assert metrics.mse(x, x_hat).value == pytest.approx((1 + 1 + 4 + 4) / 4)
    assert metrics.cosine(x, x_hat).value == pytest.approx((24 / 25 + 0) / 2)
    assert metrics.l0(torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.5]])).value == 1.5


def test_cross_entropy_and_kl() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, 9.0]]])
    tokens = torch.tensor([[0, 1, 0]])
    assert metrics.cross_entropy(logits, tokens)[0].tolist() == pytest.approx([math.log(4 / 3), math.log(2)])
    assert metrics.kl(logits, logits).abs().max() < 1e-7
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(metrics.kl(logits, torch.zeros_like(logits))[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_ce_recovered() -> None:
    clean, ablated = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
    assert metrics.ce_recovered(clean=clean, spliced=clean, ablated=ablated).value == 1
    assert metrics.ce_recovered(clean=clean, spliced=ablated, ablated=ablated).value == 0
    middle = metrics.ce_recovered(clean=clean, spliced=torch.tensor([1.5, 3.0]), ablated=ablated)
    assert middle.value == pytest.approx(4.5 / 6)
    assert middle.standard_error == pytest.approx(0.0, abs=1e-9)
