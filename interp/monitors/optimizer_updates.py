"""How large an Adam optimiser's next updates are, and when its ε swallows them."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn


def shrinkage(gradient_rms: float, *, eps: float = 1e-8) -> float:
    """Factor by which Adam's ε shrinks the update of a tensor whose gradients have this root mean square.

    In a steady state √v̂ is the RMS g of the gradients, so the update is g / (g + ε) of what it would be with ε = 0:
    a half where g = ε.

    Raises:
        ValueError: a negative RMS or ε, or both 0.

    Example:
        >>> from interp.monitors import shrinkage
        >>> shrinkage(1e-8)
        0.5
    """
    if not (gradient_rms >= 0 and eps >= 0 and gradient_rms + eps > 0):
        raise ValueError(f"gradient_rms={gradient_rms} and eps={eps} must be 0 or more, and one of them above 0")
    return gradient_rms / (gradient_rms + eps)


def adam_update_rms(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]
) -> Mapping[str, float]:
    """RMS of m̂ / (√v̂ + ε), the next update before learning rate and weight decay, from an optimiser's state.

    Args:
        optimizer: ``torch.optim.Adam`` or ``AdamW`` that took one step or more.
        parameters: (name, parameter) pairs, as ``model.named_parameters()`` gives; those that it does not hold are
            left out.

    Raises:
        ValueError: another optimiser, one with ``amsgrad`` (whose denominator is another), or one that took no step.

    Example:
        >>> import torch
        >>> from interp.monitors import adam_update_rms
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> {name: round(rms, 3) for name, rms in adam_update_rms(optimizer, layer.named_parameters()).items()}
        {'weight': 1.0}
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise ValueError(f"the state of {type(optimizer).__name__} is not known here: pass torch.optim.Adam or AdamW")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {}
    for name, parameter in parameters:
        group, state = groups.get(id(parameter)), optimizer.state.get(parameter)
        if group is None or not state:
            continue
        if group["amsgrad"]:
            raise ValueError("amsgrad divides by the largest second moment so far: this is measured without it only")
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        first = state["exp_avg"].double() / (1 - beta1**step)
        second = state["exp_avg_sq"].double() / (1 - beta2**step)
        found[name] = float((first / (second.sqrt() + group["eps"])).square().mean().sqrt())
    if not found:
        raise ValueError("the optimiser holds no moments of these parameters: take a step first")
    return found
