"""The paper's simulation (synthetic_simulation.py) done right: held out, and with standard deviations called that.

An SAE that is exact on x' gets x'' = x' + s_a n, and gives decode(encode(x') without some latents) + s_r n'. The
dense part and the ablated features are linear in x'', what s_r adds is not: the two estimates must track them.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from saes import SAE, ReLU
from saes.dark_matter import Decomposition, decompose

ROWS, D, FEATURES = 12_000, 64, 16
STDS = tuple(torch.linspace(0, 0.4, 5).tolist())


@cache
def exact_sae() -> tuple[SAE, Tensor, Tensor]:
    """An SAE of orthonormal features, sparse x' that it reconstructs exactly, and their codes."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linalg.qr(torch.randn(D, FEATURES, generator=generator)).Q.T.contiguous()
    scale = torch.linspace(0.2, 1.5, FEATURES)
    codes = (torch.rand(ROWS, FEATURES, generator=generator) < 0.3) * scale
    codes = codes * (0.5 + torch.rand(ROWS, FEATURES, generator=generator))
    sae = SAE(D, FEATURES, ReLU())
    with torch.no_grad():
        sae.W_enc.copy_(atoms.T)
        sae.W_dec.copy_(atoms)
    return sae, codes @ atoms, codes


@torch.no_grad()
def simulate(dense_std: float, introduced_std: float, ablated: int = 0) -> Decomposition:
    """``ablated``: that many of the latents with the smallest mean activation are left out."""
    sae, x, codes = exact_sae()
    generator = torch.Generator().manual_seed(1)
    noise, introduced = (torch.randn(ROWS, D, generator=generator) for _ in range(2))
    latents = sae.encode(x).to_dense()
    torch.testing.assert_close(latents, codes, rtol=0, atol=1e-4)
    latents[:, latents.mean(0).argsort()[:ablated]] = 0
    x_hat = latents @ sae.W_dec + sae.b_dec + introduced_std * introduced
    return decompose(x + dense_std * noise, x_hat, documents=torch.arange(ROWS) // 60)


def estimates(split: Decomposition) -> tuple[float, float]:
    """Linear and nonlinear error as shares of the variance of x' (that of x'' grows with the dense part itself)."""
    linear = split.linear_error[split.held].square().sum()
    nonlinear = split.nonlinear_error[split.held].square().sum()
    x = exact_sae()[1][split.held]
    total = (x - x.mean(0)).square().sum()
    return float(linear / total), float(nonlinear / total)


def correlation(a: list[float], b: list[float]) -> float:
    return float(torch.corrcoef(torch.tensor([a, b]))[0, 1])


def test_estimates_track_what_was_planted() -> None:
    """The paper's Table 1: the diagonal is high, the rest is about 0."""
    grid = [(dense, introduced) for dense in STDS for introduced in STDS]
    found = [estimates(simulate(*stds)) for stds in grid]
    dense, introduced = ([stds[i] for stds in grid] for i in range(2))
    linear, nonlinear = ([pair[i] for pair in found] for i in range(2))
    assert correlation(dense, linear) > 0.9
    assert correlation(introduced, nonlinear) > 0.9
    assert abs(correlation(dense, nonlinear)) < 0.25
    assert abs(correlation(introduced, linear)) < 0.1


def test_introduced_error_alone_is_all_nonlinear() -> None:
    linear, nonlinear = estimates(simulate(0.0, 0.3))
    x = exact_sae()[1]
    assert nonlinear == pytest.approx(0.09 * D / float((x - x.mean(0)).square().sum(-1).mean()), rel=0.03)
    assert linear < 0.02 * nonlinear


def test_ablated_features_are_linear_error() -> None:
    """With independent features nothing else is needed to read an ablated one off x."""
    shares = [estimates(simulate(0.0, 0.0, ablated=count)) for count in (0, 4, 8)]
    assert [pair[0] for pair in shares] == sorted(pair[0] for pair in shares)
    assert shares[0][0] < 1e-9 < 0.01 < shares[2][0]
    assert max(pair[1] for pair in shares) < 1e-9


def test_held_out_estimates_differ_from_those_in_sample() -> None:
    """With few rows for each dimension an in-sample probe finds noise linear, as the paper's does here (50k rows)."""
    generator = torch.Generator().manual_seed(2)
    x, noise = torch.randn(700, D, generator=generator), torch.randn(700, D, generator=generator)
    split = decompose(x, x - noise)
    fitted = ~split.held
    residual, error = (noise - split.probe(x).float())[fitted], noise[fitted]
    in_sample = 1 - float(residual.square().sum() / (error - error.mean(0)).square().sum())
    assert split.r2_vector_pooled.value < -0.05 < 0.05 < in_sample
