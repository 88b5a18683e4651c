"""The Hugging Face model inside a TransformerBridge, as it was before the bridge wrapped its modules.

A bridge computes attention and norms itself, eagerly and in small steps, so that every intermediate exists. Capturing
the residual stream needs none of that: this module rebuilds the original tree of modules, with the same parameters and
the attention that transformers would choose. Only the modules' own dictionaries are copied, so it costs milliseconds
and no memory, nothing of the bridge changes, and hooks put on the copy can be forgotten with it.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge.generalized_components import BlockBridge, JointQKVAttentionBridge

from interp.models.bridge import is_bridge, unwrapped
from interp.models.source import require_raw_weights, source_of

FAMILIES = frozenset({"gpt2", "gpt_neox", "llama", "gemma2", "gemma3_text"})
"""Where the tests have shown the values to be those of the bridge. In others a bridge may scale what its hooks show."""


class PlainCopy:
    """The original modules of a bridge, and where each of them is in the copy."""

    def __init__(self, bridge: Any) -> None:
        self._copies: dict[int, Any] = {}
        config = bridge.original_model.config
        # Fused attention has no soft cap; transformers would silently leave it out.
        capped = getattr(config, "attn_logit_softcapping", None) is not None
        self._attention = "eager" if capped or getattr(config, "reorder_and_upcast_attn", False) else "sdpa"
        self.model: nn.Module = self._copy(bridge.original_model)

    def counterpart(self, module: nn.Module) -> nn.Module | None:
        """The copy of a module, or of what a bridge's component wraps; None where the original tree has it not."""
        return self._copies.get(id(unwrapped(module)))

    def _copy(self, module: nn.Module) -> nn.Module:
        module = unwrapped(module)
        if id(module) not in self._copies:
            twin = self._copies[id(module)] = module.__new__(type(module))
            twin.__dict__ = module.__dict__ | {
                "_modules": {name: child and self._copy(child) for name, child in module._modules.items()},
                "_forward_hooks": type(module._forward_hooks)(),
                "_forward_pre_hooks": type(module._forward_pre_hooks)(),
            }
            if "config" in twin.__dict__:
                twin.__dict__["config"] = self._configure(twin.__dict__["config"])
        return self._copies[id(module)]

    def _configure(self, config: Any) -> Any:
        if id(config) not in self._copies:
            twin = self._copies[id(config)] = copy.copy(config)
            twin._attn_implementation = self._attention
        return self._copies[id(config)]


def has_plain_values(bridge: Any) -> bool:
    """Whether the plain modules compute what the bridge does: a tested family, nothing edited, and nobody's hooks."""
    if bridge.original_model.config.model_type not in FAMILIES or source_of(bridge).processed:
        return False
    modules = list(bridge.modules())
    own = {handle.id for block in modules if isinstance(block, BlockBridge) for handle in block._capture_hook_handles}
    for module in modules:
        if any(map(_edits, module._forward_hooks.values())) or module._backward_hooks:
            return False
        if not own.issuperset(module._forward_pre_hooks):
            return False
        if "forward" in vars(module) or (isinstance(module, JointQKVAttentionBridge) and not _split_agrees(module)):
            return False
    return True


def _edits(hook: Any) -> bool:
    """Whether a hook may change activations; those by which transformers collects hidden states stay once put there."""
    return getattr(hook, "__module__", None) != "transformers.utils.output_capturing"


def _split_agrees(attention: Any) -> bool:
    """Whether the separate weights that a bridge makes of fused ones still equal them: either may be edited."""
    fused, heads = attention.qkv.original_component, attention.config.n_heads
    for name in ("weight", "bias"):
        if (tensor := getattr(fused, name)) is None:
            continue
        if isinstance(fused, nn.Linear):  # GPT-NeoX: q, k, v of the first head, then of the next
            parts = tensor.unflatten(0, (heads, 3, -1)).unbind(1)
        else:  # GPT-2's Conv1D, stored transposed: all of q, then all of k, then all of v
            parts = tensor.movedim(-1, 0).unflatten(0, (3, heads, -1)).unbind(0)
        for split, part in zip((attention.q, attention.k, attention.v), parts, strict=True):
            own = getattr(split.original_component, name).unflatten(0, (heads, -1))
            same_memory = own.data_ptr() == part.data_ptr() and own.stride() == part.stride()
            if not (same_memory or torch.equal(own, part)):
                return False
    return True


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


def require_tested_family(model: Any, what: str) -> None:
    """Refuse a bridge of a family in which no test has compared ``what`` (a noun phrase) with the original model.

    Raises:
        ValueError: naming the families that can be, and where to add one; or the model is no bridge.
    """
    if not is_bridge(model):
        raise ValueError(f"{what} need a model from interp.load_model, not a {type(model).__name__}")
    family = model.original_model.config.model_type
    if family not in FAMILIES:
        raise ValueError(
            f"{what} were compared in {', '.join(sorted(FAMILIES))}, not in {family!r}: take a model of those, or add"
            " the family to interp.models.plain.FAMILIES with a tiny model in the tests"
        )
