"""Screening in bfloat16 selects what float32 would, also where bfloat16 alone would be wrong."""

import pytest
import torch
from torch import Tensor

from saes.kernels import cpu
from saes.kernels.cpu_screen import Screen

U = 2.0**-8


def screened(x: Tensor, table: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor] | None:
    return Screen.of(table, bias, rows=len(x), k=k).top(x)


def by_bfloat16(x: Tensor, table: Tensor, k: int) -> set[int]:
    return set((x.bfloat16() @ table.bfloat16().T)[0].topk(k).indices.tolist())


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_whole_numbers_one_apart(seed: int, with_bias: bool) -> None:
    """Products near 100,000 that differ by one, from numbers of ten bits, of which bfloat16 keeps eight.

    Float32 holds every sum exactly, so the selection must be that of whole numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    d, d_sae, k = 32, 4096, 16
    x = torch.randint(200, 1000, (6, d), generator=generator)
    x[:, -1] = 1
    table = torch.randint(-20, 20, (d_sae, d), generator=generator)
    rivals = torch.randperm(d_sae, generator=generator)[:120]
    table[rivals, :-1] = torch.randint(50, 60, (1, d - 1), generator=generator)
    table[rivals, -1] = torch.arange(120)
    bias = torch.randint(0, 3, (d_sae,), generator=generator) if with_bias else torch.zeros(d_sae, dtype=torch.int64)
    exact = x @ table.T + bias
    assert exact.abs().max() < 2**24
    found = screened(x.float(), table.float(), bias.float() if with_bias else None, k)
    assert found is not None
    values, indices = found
    assert torch.equal(values, exact.gather(1, indices).float())
    assert torch.equal(values.sort(-1).values, exact.topk(k).values.sort(-1).values.float())


@pytest.mark.parametrize("rounded", ["weights", "inputs"])
@pytest.mark.parametrize("scale", [2.0**-50, 1.0, 2.0**50])
def test_errors_as_large_as_the_bound_allows(rounded: str, scale: float) -> None:
    """Products near 0 of long vectors, every entry halfway between two bfloat16 numbers and every error of one sign.

    Winners are larger by the last entry alone, which bfloat16 holds exactly. Half the bound would lose them.
    """
    d, d_sae, k = 64, 8192, 8
    winners, losers = torch.arange(3, 3 + k), torch.arange(500, 530)
    sign = torch.tensor([1.0, -1.0]).repeat(d // 2)
    down, up = 1 + 0.999 * U, 1 + 1.001 * U  # to 1, and to 1 + 2 U
    x, table = torch.ones(1, d + 1), torch.full((d_sae, d + 1), -1.0)
    if rounded == "weights":
        table[winners, :d] = torch.where(sign > 0, down, -up)
        table[losers, :d] = torch.where(sign > 0, up, -down)
    else:
        x[:, :d] = torch.where(sign > 0, down, up)
        table[winners, :d], table[losers, :d] = sign, -sign
    table[winners, d], table[losers, d] = 2**-5, 2**-6
    exact = (x.double() @ table.double().T)[0]
    assert set(exact.topk(k).indices.tolist()) == set(winners.tolist())
    assert not by_bfloat16(x, table, k) & set(winners.tolist())
    found = screened(x * scale, table, None, k)
    assert found is not None
    assert sorted(found[1][0].tolist()) == winners.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_random_weights_of_all_lengths(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole encoder, block by block, against float64; a gap that float32 can tell is told."""
    monkeypatch.setattr(cpu, "BLOCK", 3 * 3000)
    monkeypatch.setattr(Screen, "pays", lambda *_: True)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 40, generator=generator) * torch.rand(8, 1, generator=generator) * 100
    table = torch.randn(3001, 40, generator=generator) * (0.5 + torch.rand(3001, 1, generator=generator))
    bias = torch.randn(3001, generator=generator)
    values, indices = cpu.top(x, table, bias, 5)
    exact = x.double() @ table.double().T + bias.double()
    at, best = exact.gather(1, indices), exact.topk(5).values
    torch.testing.assert_close(at.sort(-1).values, best.sort(-1).values, rtol=0, atol=1e-3)
    torch.testing.assert_close(values.double(), at, rtol=1e-5, atol=1e-4)
    assert torch.equal(at.sort(-1, descending=True).values.float(), best.float())


@pytest.mark.parametrize("shift", [-3.0, -300.0])
def test_winners_below_zero(shift: float) -> None:
    """Where the bound is not above zero the groups' maxima are found as floats."""
    generator = torch.Generator().manual_seed(0)
    x, table = torch.randn(5, 16, generator=generator), torch.randn(2048, 16, generator=generator)
    bias = torch.full((2048,), 5 * shift)
    bias[torch.randperm(2048, generator=generator)[:60]] = shift
    found = screened(x, table, bias, 10)
    assert found is not None
    exact = x.double() @ table.double().T + bias.double()
    expected = exact.topk(10).values.sort(-1).values
    torch.testing.assert_close(exact.gather(1, found[1]).sort(-1).values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, 1e38])
def test_what_cannot_be_screened_is_left_to_float32(spoilt: float) -> None:
    x, table = torch.randn(4, 16), torch.randn(1024, 16)
    x[1, 2] = spoilt
    assert screened(x, table, None, 4) is None
    assert screened(torch.zeros(4, 16), table, None, 4) is None


def test_it_is_used_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    x, table = torch.empty(2048, 64, device="meta"), torch.empty(32_768, 64, device="meta")
    monkeypatch.setattr("saes.kernels.cpu_screen._multiplies_bfloat16", lambda: True)
    assert Screen.pays(x, table, 32)
    assert not Screen.pays(x, table, 4096)
    assert not Screen.pays(x[:16], table, 32)
    assert not Screen.pays(x.double(), table.double(), 32)
    monkeypatch.setattr("saes.kernels.cpu_screen._multiplies_bfloat16", lambda: False)
    assert not Screen.pays(x, table, 32)
