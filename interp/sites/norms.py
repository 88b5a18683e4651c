"""Norms with their scale held constant: what remains is linear, and keeps LayerNorm's centring differentiable.

Detaching the mean too would remove the gradient of the centring; ``F.layer_norm`` detached whole, all gradients.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from interp.models.bridge import computed, unwrapped

Form = Literal["layer_norm", "rms", "rms_plus_one"]
_UNSAID = 1e-5
"""Epsilon of a norm without weights that keeps none (OLMo's); the comparison would show another."""


@dataclass(frozen=True)
class LinearNorm:
    """``y = (x - mean) * scale(x) * gain + bias`` (LayerNorm) or ``y = x * scale(x) * gain`` (RMSNorm)."""

    weight: Tensor | None
    """None where the norm only divides (OLMo)."""
    bias: Tensor | None
    """What is added at the end; None where nothing is."""
    epsilon: float
    """Added to the mean square before the root."""
    form: Form
    """What it divides by, and whether the mean is taken away."""

    def scale(self, x: Tensor) -> Tensor:
        """``[..., 1]``: what the norm multiplies by; the inverse of TransformerLens's ``hook_scale``."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return torch.rsqrt(self._centred(x).square().mean(-1, keepdim=True) + self.epsilon)

    def divisor(self, x: Tensor) -> Tensor:
        """``[..., 1]``, TransformerLens's ``hook_scale``: what the norm divides by."""
        return self.scale(x).reciprocal().to(x.dtype)

    def normalized(self, x: Tensor) -> Tensor:
        """The norm's output before its gain and bias, TransformerLens's ``hook_normalized``."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return (self._centred(wide) * self.scale(wide)).to(x.dtype)

    def linear(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm's output without its bias, for a scale that does not depend on ``x``."""
        normalized = self._centred(x) * scale.to(x.dtype)
        if self.weight is None:
            return normalized
        return normalized * (1.0 + self.weight if self.form == "rms_plus_one" else self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """The norm's output, with the scale as a constant of the graph."""
        y = self.linear(x, self.scale(x.detach()))
        return y if self.bias is None else y + self.bias

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.form == "layer_norm" else x


@torch.no_grad()
def linear_norm(module: nn.Module) -> LinearNorm:
    """Recognise a norm by what it computes, whatever its class.

    Raises:
        ValueError: it is neither LayerNorm nor RMSNorm, the latter with weights around 1 or around 0.
    """
    norm: Any = unwrapped(module)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", _UNSAID if weight is None else None))
    shape: tuple[int, ...] = getattr(norm, "normalized_shape", ()) if weight is None else weight.shape
    if len(shape) == 1 and epsilon is not None:
        like = torch.empty(0) if weight is None else weight
        generator = torch.Generator().manual_seed(0)
        sizes = torch.tensor([[1e-2], [1], [3], [50]]).to(like)
        x = torch.randn(4, shape[0], generator=generator).to(like) * sizes
        y = computed(norm, x)
        tolerance = 2e-2 if x.dtype in (torch.float16, torch.bfloat16) else 1e-4
        forms: tuple[Form, ...] = ("layer_norm", "rms") if weight is None else ("layer_norm", "rms", "rms_plus_one")
        for form in forms:
            candidate = LinearNorm(weight, bias, epsilon, form)
            if y.shape == x.shape and torch.allclose(candidate(x).to(y.dtype), y, rtol=tolerance, atol=tolerance):
                return candidate
    raise ValueError(
        f"the norm {type(norm).__name__} is not known: it is neither LayerNorm nor RMSNorm with a weight per dimension"
        " or without weights. Leave the LN rule and the norm's sites out, or add its form to interp.sites.norms with a"
        " test"
    )
