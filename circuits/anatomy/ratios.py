"""``act(x) / x`` of the activations in transformers, in closed form: what the Identity rule keeps constant.

Dividing ``act(x)`` by ``x`` loses everything near zero in half precision and is undefined at zero, where the limit of
a GELU or SiLU is 1/2.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def _gelu_ratio(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _tanh_gelu_ratio(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))


def _quick_gelu_ratio(x: Tensor) -> Tensor:
    return torch.sigmoid(1.702 * x)


def _relu_ratio(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


Ratio = Callable[[Tensor], Tensor]

RATIOS: dict[str, Ratio] = {
    "SiLU, swish": torch.sigmoid,
    "GELU": _gelu_ratio,
    "GELU by tanh": _tanh_gelu_ratio,
    "quick GELU": _quick_gelu_ratio,
    "ReLU": _relu_ratio,
}


@torch.no_grad()
def ratio_of(activation: nn.Module) -> Ratio:
    """The ratio that ``activation`` has on a grid, whatever its class.

    Raises:
        ValueError: it is none of ``RATIOS``. ``act(x) / x`` of a squared ReLU, say, is not bounded by the slope of
            ``act``, so it needs a decision of its own and not a division.
    """
    grid = torch.linspace(-8, 8, 161, dtype=torch.float64)
    try:
        values = activation.forward(grid)  # not a call: somebody's hooks shall not see this
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"activation {type(activation).__name__} is not a function of one number: {error}") from error
    for ratio in RATIOS.values():
        if values.shape == grid.shape and torch.allclose(values.double(), grid * ratio(grid), rtol=0, atol=1e-6):
            return ratio
    raise ValueError(
        f"the Identity rule does not know activation {type(activation).__name__}; it knows {', '.join(RATIOS)}."
        " Leave the rule out, or add act(x)/x to circuits.anatomy.ratios.RATIOS with a test"
    )
