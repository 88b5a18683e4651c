"""The Hugging Face model inside a TransformerBridge, as it was before the bridge wrapped its modules.

A bridge computes attention and norms itself, eagerly and in small steps, so that every intermediate exists. Capturing
the residual stream needs none of that: this module rebuilds the original tree of modules, with the same parameters and
the attention that transformers would choose. Only the modules' own dictionaries are copied, so it costs milliseconds
and no memory, nothing of the bridge changes, and hooks put on the copy can be forgotten with it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components import BlockBridge, JointQKVAttentionBridge

from interp.models.bridge import is_bridge, unwrapped
from interp.models.families.family import Fusion
from interp.models.families.fusion import split
from interp.models.families.table import COMPARED_IN_ALL, declared
from interp.models.source import require_raw_weights, source_of


class PlainCopy:
    """The original modules of a bridge (or plain model), and where each of them is in the copy.

    ``eager`` computes attention in steps, so that its softmax can be seen.
    """

    def __init__(self, model: Any, *, eager: bool = False) -> None:
        self._copies: dict[int, Any] = {}
        original = model.original_model if is_bridge(model) else model
        # Fused attention has no soft cap and no sinks; transformers would silently leave them out.
        capped = getattr(original.config, "attn_logit_softcapping", None) is not None
        upcast = getattr(original.config, "reorder_and_upcast_attn", False)
        fused = getattr(original, "_supports_sdpa", False) and not (eager or capped or upcast)
        self._attention = "sdpa" if fused else "eager"
        self.model: nn.Module = self._copy(original)

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
            if _by_transformer_lens(twin.__dict__.get("forward")):
                del twin.__dict__["forward"]
            if "config" in twin.__dict__:
                twin.__dict__["config"] = self._configure(twin.__dict__["config"])
        return self._copies[id(module)]

    def _configure(self, config: Any) -> Any:
        if id(config) not in self._copies:
            twin = self._copies[id(config)] = copy.copy(config)
            twin._attn_implementation = self._attention
        return self._copies[id(config)]


def has_plain_values(bridge: Any) -> bool:
    """Whether the plain modules compute what the bridge should: nothing edited, nothing processed, nobody's hooks."""
    if source_of(bridge).processed:
        return False
    modules = list(bridge.modules())
    own = {handle.id for block in modules if isinstance(block, BlockBridge) for handle in block._capture_hook_handles}
    for module in modules:
        if any(map(_edits, module._forward_hooks.values())) or module._backward_hooks:
            return False
        if not own.issuperset(module._forward_pre_hooks):
            return False
        forward = vars(module).get("forward")
        if (forward is not None and not _by_transformer_lens(forward)) or (
            isinstance(module, JointQKVAttentionBridge) and not _split_agrees(module)
        ):
            return False
    return True


def _edits(hook: Any) -> bool:
    """Whether a hook may change activations. Those by which transformers collects hidden states stay once put there,
    and a bridge puts some that give its hook points other shapes."""
    inside = [cell.cell_contents for cell in getattr(hook, "__closure__", None) or ()]
    return getattr(hook, "__module__", None) != "transformers.utils.output_capturing" and not any(
        map(_by_transformer_lens, inside)
    )


def _by_transformer_lens(function: Any) -> bool:
    """Whether it is how a bridge runs a module, which computes the same as the module's own class."""
    return callable(function) and str(getattr(function, "__module__", "")).startswith("transformer_lens.model_bridge")


def _split_agrees(attention: Any) -> bool:
    """Whether the separate weights that a bridge makes of fused ones still equal them: either may be edited."""
    fused, heads = attention.qkv.original_component, attention.config.n_heads
    own = [part.original_component for part in (attention.q, attention.k, attention.v)]

    def rows(module: Any, name: str) -> Tensor:
        """Entries of the output last; a Conv1D stores them so."""
        tensor = getattr(module, name)
        return tensor.movedim(0, -1) if isinstance(module, nn.Linear) else tensor

    key_value_heads = rows(own[1], "weight").shape[-1] * heads // rows(own[0], "weight").shape[-1]
    layouts: tuple[Fusion, ...] = ("stacked", "grouped")
    return any(
        all(
            _same(rows(own[number], name).unflatten(-1, (-1, part.shape[-1])), part)
            for name in ("weight", "bias")
            if getattr(fused, name, None) is not None
            for number in range(3)
            for part in [split(rows(fused, name), number, fusion=fusion, heads=heads, key_value_heads=key_value_heads)]
        )
        for fusion in layouts
    )


def _same(own: Tensor, part: Tensor) -> bool:
    same_memory = own.data_ptr() == part.data_ptr() and own.stride() == part.stride()
    return own.shape == part.shape and (same_memory or torch.equal(own, part))


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
        require_right_attention(model)
        return model
    require_raw_weights(model, purpose=purpose)
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    if hooked:
        raise ValueError(
            f"cannot {purpose} while hooks edit the bridge at {', '.join(hooked[:3])}: call model.reset_hooks() first"
        )
    return PlainCopy(model).model


def require_right_attention(model: Any) -> None:
    """Refuse a Hugging Face model that runs an attention which is not its own.

    Raises:
        ValueError: eager attention, in a family of which transformers computes it wrongly.
    """
    config: Any = getattr(model, "config", None)
    family = declared(config)
    if family is not None and not family.eager and config._attn_implementation == "eager":
        raise ValueError(
            f"transformers computes eager attention of this {config.model_type!r} model wrongly (linear biases count"
            " twice); set model.config._attn_implementation = 'sdpa'"
        )


def require_tested_family(model: Any, what: str) -> None:
    """Refuse a bridge of a family in which no test has compared ``what`` (a noun phrase) with the original model.

    Raises:
        ValueError: naming the families that can be, and where to add one; or the model is no bridge.
    """
    if not is_bridge(model):
        raise ValueError(f"{what} need a model from interp.load_model, not a {type(model).__name__}")
    family = model.original_model.config.model_type
    if family not in COMPARED_IN_ALL:
        raise ValueError(
            f"{what} were compared in {', '.join(COMPARED_IN_ALL)}, not in {family!r}: take a model of those, or add"
            " the family to interp.models.families.COMPARED_IN_ALL with a tiny model in the tests"
        )
