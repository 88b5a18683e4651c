"""Norms with their scale held constant: what remains is linear, and keeps LayerNorm's centring differentiable.

Detaching the mean too would remove the gradient of the centring; ``F.layer_norm`` detached whole, all gradients.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from interp.models.bridge import unwrapped

Form = Literal["layer_norm", "rms", "rms_plus_one"]


@dataclass(frozen=True)
class LinearNorm:
    """``y = (x - mean) * scale(x) * gain + bias`` (LayerNorm) or ``y = x * scale(x) * gain`` (RMSNorm)."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float
    form: Form

    def scale(self, x: Tensor) -> Tensor:
        """``[..., 1]``: what the norm multiplies by; the inverse of TransformerLens's ``hook_scale``."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        centred = x - x.mean(-1, keepdim=True) if self.form == "layer_norm" else x
        return torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.epsilon)

    def linear(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm's output without its bias, for a scale that does not depend on ``x``."""
        centred = x - x.mean(-1, keepdim=True) if self.form == "layer_norm" else x
        gain = 1.0 + self.weight if self.form == "rms_plus_one" else self.weight
        return centred * scale.to(x.dtype) * gain

    def __call__(self, x: Tensor) -> Tensor:
        """The norm's output, with the scale as a constant of the graph."""
        y = self.linear(x, self.scale(x.detach()))
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def linear_norm(module: nn.Module) -> LinearNorm:
    """Recognise a norm by what it computes, whatever its class.

    Raises:
        ValueError: it is neither LayerNorm nor RMSNorm, the latter with weights around 1 or around 0.
    """
    norm = unwrapped(module)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    if isinstance(weight, Tensor) and weight.ndim == 1 and epsilon is not None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, len(weight), generator=generator).to(weight) * torch.tensor([[1e-2], [1], [3], [50]]).to(
            weight
        )
        y = norm.forward(x)  # not a call: somebody's hooks shall not see this
        tolerance = 2e-2 if weight.dtype in (torch.float16, torch.bfloat16) else 1e-4
        forms: tuple[Form, ...] = ("layer_norm", "rms", "rms_plus_one")
        for form in forms:
            candidate = LinearNorm(weight, bias, epsilon, form)
            if y.shape == x.shape and torch.allclose(candidate(x).to(y.dtype), y, rtol=tolerance, atol=tolerance):
                return candidate
    raise ValueError(
        f"the LN rule does not know norm {type(norm).__name__}: it is neither LayerNorm nor RMSNorm with a weight per"
        " dimension. Leave the rule out, or add its form to circuits.anatomy.norms with a test"
    )
