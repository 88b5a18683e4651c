"""JumpReLU with the tanh penalty against its formulas written out, in float64: loss, and gradient of every weight."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from saes import JumpReLU, TrainConfig
from saes.activations import activation_from_config, activation_to_config
from saes.losses import run
from saes.training.stepping.loss import loss_terms
from tests.saes.variants import inputs, random_sae

WIDTH, D = 0.7, 8


def written_out(sae: JumpReLU, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of squared errors, of tanh and of what is below the thresholds, over rows and dimensions; its gradients
    by hand through the step, by autograd where everything is smooth."""
    W_enc, b_enc, W_dec, b_dec, threshold = (
        getattr(sae, name).detach().clone() for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    )
    centred = x - b_dec
    pre = centred @ W_enc + b_enc
    f = torch.where(pre > threshold, pre, 0.0)
    leaves = [f, W_dec, b_dec, threshold, pre]
    for leaf in leaves:
        leaf.requires_grad_()
    norms = W_dec.square().sum(-1).sqrt()
    error = (x - f @ W_dec - b_dec).square().sum()
    penalty = torch.tanh(4 * f * norms).sum()
    below = (torch.relu(threshold - pre) * norms).sum()
    loss = (error + 2 * penalty + 3e-6 * below) / (len(x) * D)
    to_f, to_W_dec, to_b_dec, to_threshold, to_pre = torch.autograd.grad(loss, leaves)
    near = ((pre - threshold).abs() < WIDTH / 2) * threshold / WIDTH
    to_threshold = to_threshold - (near * to_f).sum(0)
    to_pre = to_pre + to_f * (pre > threshold) + near * to_f
    gradients = {
        "W_enc": centred.T @ to_pre,
        "b_enc": to_pre.sum(0),
        "W_dec": to_W_dec,
        "b_dec": to_b_dec - (to_pre @ W_enc.T).sum(0),
        "threshold": to_threshold,
    }
    return loss.detach(), {name: gradient.detach() for name, gradient in gradients.items()}


def test_loss_and_gradients_are_those_of_the_formulas(tmp_path: Path) -> None:
    sae, x = random_sae(JumpReLU(bandwidth=WIDTH, penalty="tanh")).train(), inputs()
    forward = run(sae, x, x, torch.zeros(24, dtype=torch.bool))
    options = {"bandwidth": WIDTH, "penalty": "tanh"}
    config = TrainConfig(site="s", out=tmp_path, activation="jumprelu", options=options)
    terms = loss_terms(forward, config.weights(forward.sae.activation), sparsity={})
    assert list(terms) == ["mse", "tanh", "pre_act"]
    loss = sum(terms.values())
    assert isinstance(loss, Tensor)
    loss.backward()
    expected, gradients = written_out(sae, x)  # type: ignore[arg-type]
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sae.get_parameter(name).grad, gradient, rtol=1e-10, atol=1e-14, msg=name)


def test_the_penalty_is_an_option_that_files_hold() -> None:
    assert activation_from_config(activation_to_config(JumpReLU(penalty="tanh"))) == JumpReLU(penalty="tanh")
    assert activation_from_config({"name": "jumprelu"}).loss_weights == {"l0": 2.0, "aux": 1.0}
    with pytest.raises(ValueError, match="penalty is 'l1'; it is 'l0' or 'tanh'"):
        activation_from_config({"name": "jumprelu", "penalty": "l1"})
