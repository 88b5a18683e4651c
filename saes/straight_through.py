"""JumpReLU's straight-through estimators: gradients for a threshold that the forward pass only compares with.

Rajamanoharan et al. 2024 (arXiv 2407.14435), equations 11 and 12, with a rectangular kernel K of the given bandwidth:
averaged over data they estimate the gradient of the expected loss, which is smooth although each sample's is not.
The kernel reaches half a bandwidth to either side of the threshold, below zero too where that is less: the equations
hold there as everywhere. A pre-activation of minus infinity is outside every kernel.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def jump(
    pre: Float[Tensor, "*n"], threshold: Float[Tensor, "*n"], bandwidth: float, *, input_gradient: bool = False
) -> Float[Tensor, "*n"]:
    """``pre`` where it is above ``threshold``, else 0; d/dthreshold = -(threshold / bandwidth) K.

    With ``input_gradient`` d/dpre = 1 above the threshold, plus (threshold / bandwidth) K: what moves a pre-activation
    across the threshold changes the output by as much as moving the threshold does (Anthropic, Circuits Updates,
    January 2025). The equations leave this part out.
    """
    return _Jump.apply(pre, threshold, bandwidth, input_gradient)


def step(pre: Float[Tensor, "*n"], threshold: Float[Tensor, "*n"], bandwidth: float) -> Float[Tensor, "*n"]:
    """1 where ``pre`` is above ``threshold``, else 0; d/dthreshold = -(1 / bandwidth) K, no gradient to ``pre``."""
    return _Step.apply(pre, threshold, bandwidth)


def _kernel(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype) / bandwidth


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, input_gradient: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.input_gradient = bandwidth, input_gradient
        return pre.where(pre > threshold, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        pre, threshold = ctx.saved_tensors
        across = threshold * _kernel(pre, threshold, ctx.bandwidth) * gradient
        to_pre = gradient.where(pre > threshold, 0.0)
        if ctx.input_gradient:
            to_pre = to_pre + across.to(gradient.dtype)
        return to_pre, -across.to(threshold.dtype), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return None, (-_kernel(pre, threshold, ctx.bandwidth) * gradient).to(threshold.dtype), None
