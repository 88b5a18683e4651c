"""A TransformerBridge and the Hugging Face modules inside its components."""

from typing import Any

from torch import nn

Model = Any
"""A TransformerBridge from ``load_model``; where a function says so, a plain Hugging Face model or any torch module.

``Any`` to type checkers: what is read of a model, such as ``tokenizer`` or ``cfg``, is no attribute of ``nn.Module``.
"""


def is_bridge(model: nn.Module) -> bool:
    """Whether the model is a TransformerBridge, which has all the named sites."""
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)


def remove_hook(point: Any, handle: Any) -> None:
    """Take off what a hook point's ``add_hook`` put on, and leave every other hook."""
    handle.hook.remove()
    point.fwd_hooks.remove(handle)


def module_at(model: Any, path: str) -> nn.Module | None:
    """The module that runs at a path of Hugging Face's: in a bridge the component around the original module."""
    module: nn.Module | None = model.original_model if is_bridge(model) else model
    for part in path.split("."):
        # Not a component's own children: of GPT-Neo's attn.attention the bridge's component is called attn.
        module = None if module is None else unwrapped(module)._modules.get(part)
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """The original module inside a bridge's component; any other module is itself."""
    while (inner := module._modules.get("_original_component")) is not None:
        module = inner
    return module


def computed(module: nn.Module, *inputs: Any) -> Any:
    """What a module's class computes: nobody's hooks or tracers see it."""
    return type(module).forward(module, *inputs)
