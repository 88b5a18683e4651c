"""A model whose query heads share keys and values, as one in which none do: so that each has edges of its own."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from circuits.anatomy.anatomy import anatomy_of, model_type
from interp.models.bridge import Model
from interp.models.plain import plain_module

_SHARED = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")


@torch.no_grad()
def ungroup(model: Model) -> nn.Module:
    """A plain Hugging Face model that computes what ``model`` does, with the keys and values of every group repeated
    for each of its query heads; itself where none are shared.

    The edges into the keys of a group's heads sum to the edge into the shared keys. Benchmarks that count edges by
    query head (MIB) ask for this. All other weights are the given model's own, not copies.

    Raises:
        ValueError: as :func:`circuits.anatomy.anatomy_of`; keys and values without a projection
            each, or whose norms have weights of every head.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> circuits.mib.ungroup(model.original_model) is model.original_model  # its heads share no keys
        True
    """
    root: Any = plain_module(model, purpose="give every head keys and values of its own")
    anatomy = anatomy_of(root)
    if anatomy.heads == anatomy.key_value_heads:
        return root
    config = copy.deepcopy(root.config)
    config.num_key_value_heads = anatomy.heads
    with torch.device("meta"):
        apart: Any = AutoModelForCausalLM.from_config(config, attn_implementation=root.config._attn_implementation)

    def by_head(name: str, tensor: Tensor) -> Tensor:
        if not name.endswith(_SHARED):
            return tensor
        groups = tensor.unflatten(0, (anatomy.key_value_heads, -1))
        return groups.repeat_interleave(anatomy.heads // anatomy.key_value_heads, 0).flatten(0, 1)

    state = {name: by_head(name, tensor) for name, tensor in root.state_dict().items()}
    sizes, wanted = ({name: each.shape for name, each in s.items()} for s in (state, apart.state_dict()))
    if anatomy.family.fusion != "separate" or sizes != wanted:
        differ = sorted(name for name in sizes | wanted if sizes.get(name) != wanted.get(name))
        raise ValueError(
            f"heads of a {model_type(anatomy)!r} model cannot have keys and values of their own: beside a projection of"
            f" keys and one of values there is {differ[0] if differ else anatomy.family.k}, which they share"
        )
    apart.load_state_dict(state, assign=True)
    # Not in the state: tables of the rotary embeddings, and scales of embeddings.
    for name, buffer in root.named_buffers():
        owner, _, leaf = name.rpartition(".")
        apart.get_submodule(owner)._buffers[leaf] = buffer
    return apart.eval()
