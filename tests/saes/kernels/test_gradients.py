"""Gradient conformance: each loss term of each variant against central differences, in float64, at each parameter."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saes import SAE, JumpReLU, Latents, TrainConfig
from saes.activations import Activation
from saes.losses import TERMS, Pass, aux, run
from saes.straight_through import jump, step
from saes.training.stepping.loss import loss_terms
from tests.saes.variants import VARIANTS, inputs, random_sae

EVERYWHERE = ("mse", "l1", "afa", "afa_centred", "aux")
OWN = {"gated": ("gate_l1", "gate_mse"), "jumprelu": ("l0", "tanh", "pre_act")}
CASES = [(name, term) for name, variant in VARIANTS.items() for term in (*EVERYWHERE, *OWN.get(variant.name, ()))]
# Weights that a term must move, beside W_enc (and b_enc where it is used).
REACHES = {
    "mse": {"W_enc", "W_dec", "b_dec", "r_mag", "b_mag"},
    "l1": {"W_enc", "W_dec", "r_mag", "b_mag"},
    "afa": {"W_enc", "r_mag", "b_mag"},
    "afa_centred": {"W_enc", "W_dec", "b_dec", "r_mag", "b_mag"},
    "aux": {"W_enc", "W_dec"},
    "gate_l1": {"W_enc", "W_dec"},
    "gate_mse": {"W_enc"},
    "l0": set(),
    "tanh": {"W_enc", "W_dec"},
    "pre_act": {"W_enc", "W_dec", "b_dec"},
}


@pytest.mark.parametrize("backward", ["sparse", "dense"])
@pytest.mark.parametrize(("variant", "term"), CASES, ids=["-".join(case) for case in CASES])
def test_gradient_is_that_of_finite_differences(
    variant: str, term: str, backward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saes.kernels.encode.DENSE_ABOVE", 1.0 if backward == "sparse" else 0.0)
    sae, x = random_sae(VARIANTS[variant]).train(), inputs()
    dead = sae.encode(x).to_dense().sum(0) == 0
    dead[:6] = True  # so that some dead latents are active too: the term must not care
    before, frozen = run(sae, x, x, dead), copy.deepcopy(sae)
    TERMS[term](before).backward()
    # The gate's bias says which latents are active, not how strongly: it takes its gradient from the gate's own terms.
    through_b_enc = {"gate_l1", "gate_mse", "aux"} if sae.activation.name == "gated" else set(REACHES) - {"l0"}
    reached = REACHES[term] | ({"b_enc"} if sae.activation.uses_b_enc and term in through_b_enc else set())
    for name, weights in sae.named_parameters():
        if not weights.requires_grad or name == "threshold":
            continue
        analytic = torch.zeros_like(weights) if weights.grad is None else weights.grad
        assert analytic.abs().max() > 0 or name not in reached, f"{term} does not reach {name}"
        numeric = torch.zeros_like(weights)
        for index in itertools.product(*map(range, weights.shape)):
            ends = [_moved(sae, name, index, sign * 1e-6, term, before, frozen) for sign in (1, -1)]
            numeric[index] = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(analytic, numeric, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def _moved(sae: SAE, name: str, index: tuple[int, ...], by: float, term: str, before: Pass, frozen: SAE) -> float:
    """The term where one weight is moved; what it holds constant comes from ``before`` and the ``frozen`` copy."""
    weights = sae.get_parameter(name)
    original = weights[index].clone()
    weights[index] += by
    after = run(sae, before.x, before.target, before.dead)
    if term == "aux" and sae.activation.detach_aux_error:
        dead = before.dead.nonzero().squeeze(-1)
        silencing = frozen.b_enc[dead] if sae.activation.starts_sparse_by == "b_enc" else 0.0
        rebuilt = (sae.pre_activations(after.x, only=dead) - silencing).relu() @ sae.W_dec[dead]
        value = (before.target - before.x_hat - rebuilt).square().mean()
    elif term == "gate_mse":
        assert after.latents.pre is not None
        gates = Latents(after.latents.pre, after.latents.indices, sae.d_sae)
        value = (after.target - frozen.decode(gates)).square().mean()
    else:
        value = TERMS[term](after)
    weights[index] = original
    return float(value)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_weight_without_gradient_has_no_effect(variant: Activation) -> None:
    """Top-AFA has no b_enc; thresholds that no gradient moves act outside training alone."""
    sae, x = random_sae(variant).train(), inputs()
    output = sae(x)
    with torch.no_grad():
        for parameter in sae.parameters():
            if not parameter.requires_grad:
                parameter.add_(1)
    assert torch.equal(sae(x), output)


def test_aux_competes_among_dead_latents_only() -> None:
    """With k = 2 of 3 dead latents, the largest two of each row, by hand."""
    sae, x = random_sae(VARIANTS["topk"]), inputs()
    dead = torch.zeros(24, dtype=torch.bool)
    dead[[3, 11, 20]] = True
    forward = run(sae, x, x, dead)
    pre = sae.pre_activations(x)[:, [3, 11, 20]].relu()
    kept = pre * (pre > pre.min(-1, keepdim=True).values)
    expected = (x - sae(x) - kept @ sae.W_dec[[3, 11, 20]]).square().mean()
    torch.testing.assert_close(aux(forward, k=2), expected)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu", "topk"])
def test_aux_and_its_gradient_by_hand(name: str) -> None:
    """In NumPy, written out row by row: latents whose bias (or threshold) keeps them silent on every row learn."""
    sae, x = random_sae(VARIANTS[name]).train(), inputs()
    dead = [2, 3, 11, 17, 20]
    with torch.no_grad():
        if name == "jumprelu":
            sae.threshold[dead] = 1e3
        elif name != "topk":
            sae.b_enc[dead] = -1e3
    forward = run(sae, x, x, torch.isin(torch.arange(24), torch.tensor(dead)))
    found = aux(forward, k=2)
    found.backward()
    W_enc, W_dec, b_enc, b_dec = (p.detach().numpy() for p in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec))
    rows, errors = x.numpy(), (x - forward.x_hat).detach().numpy()
    value, grad_enc, grad_dec, grad_bias = 0.0, np.zeros_like(W_enc), np.zeros_like(W_dec), np.zeros_like(b_enc)
    for row, error in zip(rows, errors, strict=True):
        pre = {i: (row - b_dec) @ W_enc[:, i] + (b_enc[i] if name in ("jumprelu", "topk") else 0.0) for i in dead}
        kept = [i for i in sorted(pre, key=pre.__getitem__)[-2:] if pre[i] > 0]
        left = error - sum((pre[i] * W_dec[i] for i in kept), np.zeros(8))
        value += left @ left / rows.size
        for i in kept:
            grad_pre = -2 * left @ W_dec[i] / rows.size
            grad_dec[i] -= 2 * left * pre[i] / rows.size
            grad_enc[:, i] += grad_pre * (row - b_dec)
            grad_bias[i] += grad_pre
    assert found.item() == pytest.approx(value, rel=1e-12)
    for parameter, gradient in ((sae.W_enc, grad_enc), (sae.W_dec, grad_dec), (sae.b_enc, grad_bias)):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-9, atol=1e-12)


# JumpReLU's thresholds: the estimator is the gradient of a smoothed loss, and of the expected one.


def smooth_step(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The step convolved with the rectangular kernel: a ramp of width ``bandwidth`` about the threshold."""
    return ((pre - threshold) / bandwidth + 0.5).clamp(0, 1)


def test_step_estimates_the_gradient_of_the_ramp() -> None:
    pre = torch.linspace(-1, 2, 300, dtype=torch.float64)
    gradients = []
    for function in (step, smooth_step):
        threshold = torch.full((300,), 0.4, dtype=torch.float64, requires_grad=True)
        function(pre, threshold, 0.3).sum().backward()
        gradients.append(threshold.grad)
    torch.testing.assert_close(*gradients)


def test_expected_loss_has_the_estimated_gradient() -> None:
    """Mean of (target - JumpReLU(z))² + λ step(z) over z ~ N(0.5, 1): the estimate against differences of the mean.

    The exact derivative at θ is p(θ) ((target - 0)² - (target - θ)² - λ), as the density of z at θ crosses over.
    """
    z = 0.5 + torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta, target, weight, bandwidth = 0.8, 1.0, 0.3, 0.05
    threshold = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    wide = threshold.expand_as(z)
    ((target - jump(z, wide, bandwidth)).square() + weight * step(z, wide, bandwidth)).mean().backward()
    density = float(torch.distributions.Normal(0.5, 1.0).log_prob(torch.tensor(theta)).exp())
    exact = density * (target**2 - (target - theta) ** 2 - weight)
    # The estimator linearises the jump: -2 (target - f) θ instead of the finite difference of squares.
    active, silent = -2 * (target - theta) * -theta, -2 * target * -theta
    estimate = density * ((active + silent) / 2 - weight)
    assert float(threshold.grad) == pytest.approx(estimate, rel=0.02)  # type: ignore[arg-type]
    assert estimate == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("input_gradient", [False, True])
def test_expected_output_has_the_estimated_gradient_of_a_bias(input_gradient: bool) -> None:
    """Mean of JumpReLU(z + b) over z ~ N(0.5, 1): its derivative in b is P(z > θ) + θ p(θ), of which the equations have
    the first term, and the second comes with the gradient to the input."""
    z = 0.5 + torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta, normal = 0.8, torch.distributions.Normal(0.5, 1.0)
    bias, threshold = torch.zeros((), dtype=torch.float64, requires_grad=True), torch.tensor(theta).double()
    jump(z + bias, threshold.expand_as(z), 0.05, input_gradient=input_gradient).mean().backward()
    above = 1 - float(normal.cdf(torch.tensor(theta)))
    across = theta * float(normal.log_prob(torch.tensor(theta)).exp())
    assert float(bias.grad) == pytest.approx(above + input_gradient * across, rel=0.01)  # type: ignore[arg-type]


def test_thresholds_learn_through_the_latents_near_them(tmp_path: Path) -> None:
    """Both terms move the threshold of a latent whose pre-activation lies just below it, where its value is 0."""
    sae = random_sae(JumpReLU(bandwidth=0.5)).train()
    x = inputs()
    with torch.no_grad():
        sae.threshold.copy_(sae.pre_activations(x)[0].abs() + 0.1)
    forward = run(sae, x[:1], x[:1], torch.zeros(24, dtype=torch.bool))
    below = ((sae.pre_activations(x)[0] - sae.threshold).abs() < 0.25).detach()
    assert forward.latents.l0.item() == 0
    config = TrainConfig(site="s", out=tmp_path, activation="jumprelu", options={"bandwidth": 0.5})
    for term in loss_terms(forward, config.weights(forward.sae.activation), sparsity={}).values():
        sae.threshold.grad = None
        term.backward(retain_graph=True)
        assert sae.threshold.grad is not None
        assert torch.equal(sae.threshold.grad != 0, below)


@pytest.mark.parametrize(("threshold", "bandwidth"), [(0.1, 0.5), (0.0, 0.5), (0.4, 0.5), (0.1, 0.001), (0.3, 4.0)])
def test_threshold_gradient_is_that_of_equations_11_and_12(threshold: float, bandwidth: float) -> None:
    """Of arXiv 2407.14435, summed over every row and latent, by hand: pre-activations below zero lie in the kernel's
    window too where the threshold is less than half a bandwidth."""
    sae, x = random_sae(JumpReLU(bandwidth=bandwidth), d_sae=600).train(), inputs(200)
    with torch.no_grad():
        sae.threshold.fill_(threshold)
    pre = sae.pre_activations(x).detach()
    inside = (pre - threshold).abs() < bandwidth / 2
    assert inside[pre < 0].any() == (threshold < bandwidth / 2)
    forward = run(sae, x, x, torch.zeros(600, dtype=torch.bool))
    by_value = (-2 * (x - forward.x_hat) @ sae.W_dec.T / x.numel()).detach()  # of the mean squared error
    expected = {
        "mse": (by_value * -threshold / bandwidth * inside).sum(0),
        "l0": -inside.sum(0).double() / bandwidth / x.numel(),
    }
    for term, gradient in expected.items():
        sae.threshold.grad = None
        TERMS[term](forward).backward(retain_graph=True)
        torch.testing.assert_close(sae.threshold.grad, gradient, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(forward.latents.to_dense(), pre.where(pre > threshold, 0.0))


def test_threshold_stays_float32_in_a_bfloat16_sae() -> None:
    sae = SAE(8, 24, JumpReLU(), dtype=torch.bfloat16)
    assert (sae.W_enc.dtype, sae.threshold.dtype) == (torch.bfloat16, torch.float32)
    assert sae(inputs(dtype=torch.bfloat16)).dtype == torch.bfloat16
