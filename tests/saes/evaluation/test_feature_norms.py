"""epsilon_LBO and the ZF plot against hand-computed values and the bound of the paper (F7 of the method)."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saes import SAE, Latents, TopK
from saes.activations import Activation
from saes.evaluation.afa_quality import afa_quality, median
from saes.evaluation.token_table import TokenTable, epsilon_lbo, feature_norm_squared
from tests.saes.variants import VARIANTS, inputs, random_sae


def planted_sae(dictionary: Tensor) -> SAE:
    sae = SAE(dictionary.shape[1], len(dictionary), TopK(1), dtype=torch.float64)
    with torch.no_grad():
        sae.W_dec.copy_(dictionary)
    return sae


def latents_of(codes: Tensor) -> Latents:
    return Latents(codes, torch.arange(codes.shape[-1]).expand(codes.shape), codes.shape[-1])


def of(sae: SAE, codes: Tensor, z: Tensor) -> Tensor:
    f_squared = feature_norm_squared(sae, latents_of(codes)).detach()
    return epsilon_lbo(z.square().sum(-1), f_squared, d_sae=sae.d_sae)


def test_by_hand() -> None:
    """f = (2 * 3, 1 * 1) and ||b_dec|| = 2: ||f||^2 = 36 + 1 + 4 = 41; z = (5, 4, 0) has 41 too, (1, 0, 0) has 1."""
    sae = planted_sae(torch.tensor([[3.0, 0, 0], [0, 1, 0], [0, 0, 7]], dtype=torch.float64))
    with torch.no_grad():
        sae.b_dec[2] = 2.0
    codes = torch.tensor([[2.0, 1, 0], [2, 1, 0]], dtype=torch.float64)
    latents = latents_of(codes)
    assert feature_norm_squared(sae, latents).tolist() == pytest.approx([41.0, 41.0])
    assert feature_norm_squared(sae, latents, bias=False).tolist() == pytest.approx([37.0, 37.0])
    z = torch.tensor([[5.0, 4, 0], [1, 0, 0]], dtype=torch.float64)
    assert of(sae, codes, z).tolist() == pytest.approx([0.0, 40 / (2 * 41)])


def test_no_feature() -> None:
    """No epsilon fits an activation without features, any fits nothing at all."""
    assert epsilon_lbo(torch.tensor([1.0, 0.0]), torch.zeros(2), d_sae=8).tolist() == [math.inf, 0.0]


@pytest.mark.parametrize("active", [2, 8, 32, 128])
def test_never_above_the_coherence(active: int) -> None:
    """F7: for z = D f, epsilon_LBO <= mu = max |<d_i, d_j>|; an error in z can bring it above."""
    generator = torch.Generator().manual_seed(active)
    dictionary = normalize(torch.randn(512, 128, generator=generator, dtype=torch.float64), dim=-1)
    mu = float((dictionary @ dictionary.T - torch.eye(512)).abs().max())
    chosen = torch.rand(250, 512, generator=generator).topk(active, dim=-1).indices
    values = torch.randn(250, active, generator=generator, dtype=torch.float64)
    codes = torch.zeros(250, 512, dtype=torch.float64).scatter(-1, chosen, values)
    sae = planted_sae(dictionary)
    exact = of(sae, codes, codes @ dictionary)
    assert 0 < float(exact.max()) <= mu
    assert float(of(sae, codes, 20 * codes @ dictionary).min()) > mu


def test_orthonormal_dictionary() -> None:
    """F7: norms agree, so the smallest epsilon is 0."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    codes = torch.rand(100, 64, generator=generator, dtype=torch.float64)
    assert float(of(planted_sae(basis), codes, codes @ basis).max()) < 1e-12


def test_invariant_to_the_decoder_scale() -> None:
    """F7: W_i -> c W_i with f_i -> f_i / c."""
    generator = torch.Generator().manual_seed(1)
    dictionary = torch.randn(24, 8, generator=generator, dtype=torch.float64)
    codes, z = (torch.rand(16, n, generator=generator, dtype=torch.float64) for n in (24, 8))
    scale = torch.rand(24, 1, generator=generator, dtype=torch.float64) + 0.1
    scaled = of(planted_sae(scale * dictionary), codes / scale.T, z)
    torch.testing.assert_close(scaled, of(planted_sae(dictionary), codes, z))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_variant(variant: Activation) -> None:
    sae, x = random_sae(variant), inputs()
    latents = sae.encode(x)
    dense = latents.to_dense() * sae.W_dec.norm(dim=-1)
    expected = dense.square().sum(-1) + sae.b_dec.square().sum()
    torch.testing.assert_close(feature_norm_squared(sae, latents), expected)


def table(**columns: Any) -> TokenTable:
    """Columns that are not given are zero; every token has a document of its own."""
    n = len(columns["z_squared"])
    kinds = {"documents": torch.int64, "positions": torch.int64, "massive": torch.bool, "predicts": torch.bool}
    empty = {f.name: torch.zeros(n, dtype=kinds.get(f.name, torch.float64)) for f in fields(TokenTable)}
    given = {name: torch.tensor(values, dtype=empty[name].dtype) for name, values in columns.items()}
    return TokenTable(**(empty | {"documents": torch.arange(n)} | given))


def test_shares_and_bands_by_hand() -> None:
    """||z||^2 of 4 against ||f||^2 of 1, 3.5, 4 and 16: two under, one equal, one over."""
    found = afa_quality(
        table(z_squared=[4, 4, 4, 4], f_squared=[1, 3.5, 4, 16], z_hat_squared=[1, 3.5, 4, 16]), d_sae=5
    )
    assert found is not None
    assert (found.under_activated.value, found.over_activated.value) == (0.5, 0.25)
    assert found.under_activated.standard_error == pytest.approx(math.sqrt(0.25 / 3))
    each = [3 / 4, 0.5 / 14, 0, 12 / 64]
    assert found.epsilon_lbo.value == pytest.approx(sum(each) / 4)
    assert found.epsilon_lbo.n == 4
    assert found.epsilon_lbo_median.value == pytest.approx(0.5 / 14)
    assert found.epsilon_lbo_reconstruction.value == 0
    assert found.norm_ratio.value == pytest.approx((0.5 + math.sqrt(3.5) / 2 + 1 + 2) / 4)
    assert (found.z_norms, found.f_norms) == ((2, 2, 2, 2), pytest.approx((1, math.sqrt(3.5), 2, 4)))
    quarter, half, one = found.bands
    assert (quarter.epsilon, quarter.lower_slope, quarter.upper_slope) == pytest.approx(
        (0.0625, math.sqrt(1 / 1.25), math.sqrt(1 / 0.75))
    )
    assert (one.lower_slope, one.upper_slope) == (pytest.approx(math.sqrt(0.5)), None)
    assert [band.inside.value for band in (quarter, half, one)] == [0.5, 0.5, 0.75]


def test_a_band_holds_what_lies_between_its_lines() -> None:
    z = torch.rand(500, dtype=torch.float64) + 0.5
    f = torch.rand(500, dtype=torch.float64) * 2 + 0.1
    found = afa_quality(table(z_squared=z.square().tolist(), f_squared=f.square().tolist()), d_sae=9)
    assert found is not None
    for band in found.bands:
        inside = (f >= band.lower_slope * z) & (f <= (band.upper_slope or math.inf) * z)
        assert band.inside.value == pytest.approx(float(inside.double().mean()))


def test_nothing_active() -> None:
    """Tokens without any feature are no part of the mean; without any such token there is nothing to say."""
    found = afa_quality(table(z_squared=[4, 4], f_squared=[0, 2]), d_sae=3)
    assert found is not None
    assert (found.epsilon_lbo.value, found.epsilon_lbo.n) == (0.5, 1)
    assert found.under_activated.value == 1
    assert afa_quality(table(z_squared=[4.0], f_squared=[0.0]), d_sae=3) is None


def test_median_and_its_error() -> None:
    """Of n independent normal numbers the median's standard error is 1.2533 / sqrt(n)."""
    n, errors = 2000, []
    for seed in range(10):
        values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = median(values, groups=torch.arange(n))
        assert found.value == float(values.median())
        errors.append(found.standard_error)
        copies = median(values.repeat(4), groups=torch.arange(n).repeat(4))
        assert copies.standard_error == pytest.approx(found.standard_error, rel=0.05), "copies bring no information"
    assert sum(errors) / len(errors) == pytest.approx(1.2533 / math.sqrt(n), rel=0.1)
    alone = median(values, groups=torch.zeros(n, dtype=torch.int64))
    assert (alone.blocks, alone.n) == (True, round(n**0.5))
    assert alone.standard_error == pytest.approx(found.standard_error, rel=0.4)
    assert math.isnan(median(values[:1], groups=torch.zeros(1, dtype=torch.int64)).standard_error)
