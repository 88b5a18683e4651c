"""The Hugging Face modules of a model for methods that put their own hooks on them, and those that a bridge runs."""

from typing import Any

from torch import nn

from interp.models.plain import PlainCopy
from interp.models.source import require_raw_weights
from interp.sites.site import is_bridge


def plain_module(model: Any, *, purpose: str) -> nn.Module:
    """A plain Hugging Face model that computes what ``model`` does: itself, or a bridge's modules without the bridge.

    Hooks put on the result never reach the bridge; parameters are shared.

    Raises:
        ValueError: a bridge with processed weights, or with somebody's hooks, which the plain modules would not run;
            a model in training mode, whose dropout would make two runs differ.
    """
    if model.training:
        raise ValueError(f"cannot {purpose} on a model in training mode, where dropout is active: call model.eval()")
    if not is_bridge(model):
        return model
    require_raw_weights(model, purpose=purpose)
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    if hooked:
        raise ValueError(
            f"cannot {purpose} while hooks edit the bridge at {', '.join(hooked[:3])}: call model.reset_hooks() first"
        )
    return PlainCopy(model).model


def module_at(model: Any, path: str) -> nn.Module | None:
    """The module that runs at a path of Hugging Face's: in a bridge the component around the original module."""
    module: nn.Module | None = model.original_model if is_bridge(model) else model
    for part in path.split("."):
        while module is not None and part not in module._modules and "_original_component" in module._modules:
            module = module._modules["_original_component"]
        module = None if module is None else module._modules.get(part)
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """The original module inside a bridge's component; any other module is itself."""
    while (inner := module._modules.get("_original_component")) is not None:
        module = inner
    return module
