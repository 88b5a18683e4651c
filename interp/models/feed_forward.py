"""The feed-forward layers of a model: found by their place, whatever the model around them is.

The last projection of a feed-forward layer (``down_proj``; GPT-2's ``c_proj``, GPT-NeoX's ``dense_4h_to_h``) holds one
output vector a neuron, the *value vectors* of Geva et al. 2021 (arXiv 2012.14913). A model may have several stacks of
such layers: PI0 has a vision-language model and an action expert. A stack has a vocabulary where it reads tokens and a
head, or its own tied embedding, turns its output into logits.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.models.bridge import is_bridge, module_at, unwrapped
from interp.models.families.family import Family
from interp.models.families.table import declared

Neuron = tuple[int, int]
"""Layer and index in the layer, both from 0."""

_NAMES = ("down_proj", "c_proj", "dense_4h_to_h")
"""Of the last projection, in models that are no whole language model of a declared family, such as those of robots."""
_DOWN = re.compile(rf"(?P<stack>.+)\.(?P<layer>\d+)\.mlp\.(?:{'|'.join(_NAMES)})")
_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "word_embeddings")
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_BESIDE_EXPERT = "paligemma_with_expert.paligemma."
"""In lerobot's PI0, which keeps a head on the vision-language model that no action goes through."""
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The feed-forward layers of one transformer in a model."""

    path: str
    """Of the list of its blocks, such as ``model.language_model.layers``."""
    layers: int
    """How many blocks the stack has."""
    down: tuple[nn.Module, ...]
    """The last projection of every layer; in a bridge the component around it. None for mixtures of experts."""
    widths: tuple[int, ...]
    """Neurons of every layer."""
    d_model: int
    """Width of the residual stream."""
    embedding: nn.Module | None
    """What turns token ids into this stack's input, where something does."""
    unembedding: nn.Module | None
    """Linear or Embedding with weight [vocabulary, d_model]; None where there is no vocabulary."""
    final_norm: nn.Module | None
    """The norm behind the last block; None where there is none."""
    read_by_head: bool
    """False where only keys and values leave the stack, so that its last feed-forward layer changes nothing (PI0)."""
    flat: bool = False
    """The projections see tokens without a batch, ``[batch x position, d]`` (OPT)."""

    @property
    def decoder(self) -> str:
        """Path of the module around the blocks."""
        return self.path.rpartition(".")[0]


def stacks_of(model: Any, *, mixtures: bool = False) -> tuple[Stack, ...]:
    """Every stack of feed-forward layers, those with a vocabulary first; mixtures of experts only where asked for.

    Raises:
        ValueError: there is none.
    """
    root = root_of(model)
    family = declared(getattr(root, "config", None))
    if family is not None and module_at(root, family.embedding) is not None:
        if mixtures and family.mixture is not None:
            return (_stack(root, family.blocks, {}, 1, layers=int(root.config.num_hidden_layers)),)  # type: ignore[union-attr, arg-type]
        found = {family.blocks: _declared_projections(root, family)}
    else:
        found = {}
        for name, module in root.named_modules():
            match = _DOWN.fullmatch(".".join(part for part in name.split(".") if part != "_original_component"))
            if match:  # of a bridge's component and what it wraps, the component comes first
                found.setdefault(match["stack"], {}).setdefault(int(match["layer"]), module)
    if not any(found.values()):
        raise ValueError(
            f"the {type(root).__name__} has no feed-forward layers with a single last projection: looked for"
            f" those of declared families and for …N.mlp.{', '.join(_NAMES)}. Mixtures of experts and towers with fc1"
            " and fc2 have none"
        )
    stacks = [
        _stack(root, path, layers, len(found), flat=family is not None and family.mlp is None)
        for path, layers in found.items()
    ]
    return tuple(sorted(stacks, key=lambda stack: stack.unembedding is None))


def _declared_projections(root: nn.Module, family: Family) -> dict[int, nn.Module]:
    inside = family.down if family.mlp is None else f"{family.mlp}.{family.down}"
    layers = range(root.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    paths = {layer: module_at(root, f"{family.blocks}.{layer}.{inside}") for layer in layers}
    return {layer: module for layer, module in paths.items() if module is not None}


def stack_of(model: Any, path: str | None = None, *, mixtures: bool = False) -> Stack:
    """The stack at a path, or without one the stack that has the vocabulary (the only stack, where none has). A mixture
    of experts, which has blocks and no ``down``, only where asked for.

    Raises:
        ValueError: no stack there, or several and none with a vocabulary.
    """
    stacks = stacks_of(model, mixtures=mixtures)
    if path is None:
        if stacks[0].unembedding is None and len(stacks) > 1:
            raise ValueError(f"which stack of feed-forward layers is meant? Pass stack=… one of {_listed(stacks)}")
        return stacks[0]
    for stack in stacks:
        if stack.path == path:
            return stack
    raise ValueError(f"there are no feed-forward layers at stack={path!r}; this model has {_listed(stacks)}")


def root_of(model: Any) -> nn.Module:
    """The Hugging Face (or other torch) model that runs: a bridge's, or the model itself."""
    root: nn.Module = model.original_model if is_bridge(model) else model
    return root


def block_at(model: Any, stack: Stack, layer: int) -> nn.Module:
    """The block around a feed-forward layer, whose output is the residual stream after it. In a bridge it is the module
    inside the component, so that the component's hook points see what hooks on it change.

    Raises:
        ValueError: a layer that is not there.
    """
    if not 0 <= layer < stack.layers:
        raise ValueError(f"layer {layer} is not there: {stack.path} has layers 0 to {stack.layers - 1}")
    block = module_at(root_of(model), f"{stack.path}.{layer}")
    assert block is not None
    return unwrapped(block)


def require_vocabulary(stack: Stack) -> nn.Module:
    """The unembedding.

    Raises:
        ValueError: there is none.
    """
    if stack.unembedding is None:
        raise ValueError(
            f"the feed-forward layers at {stack.path!r} have no vocabulary head, so their value vectors cannot be read"
            " as tokens. An action expert has none; of a model without its head (a LlamaModel), load the whole model"
            " (LlamaForCausalLM)"
        )
    if (width := stack.unembedding.get_parameter("weight").shape[1]) != stack.d_model:
        raise ValueError(
            f"the vocabulary head reads vectors of {width} dimensions and the feed-forward layers at {stack.path!r}"
            f" write {stack.d_model}: a projection stands between them (OPT-350m), which value vectors do not pass"
        )
    return stack.unembedding


def checked_neurons(stack: Stack, neurons: Iterable[Any]) -> tuple[Neuron, ...]:
    """The neurons, as pairs of ints.

    Raises:
        ValueError: not a pair (a flat id, say); a layer or index that the stack does not have; one named twice.
    """
    found: dict[Neuron, None] = {}
    for neuron in neurons:
        try:
            layer, index = map(int, neuron)
        except (TypeError, ValueError):
            raise ValueError(
                f"{neuron!r} is not a neuron: neurons are (layer, index). A flat id means another neuron in every"
                " width; interp.models.feed_forward.from_flat(ids, width=…) reads those of a width that you name"
            ) from None
        if not 0 <= layer < stack.layers:
            raise ValueError(f"neuron {(layer, index)} is in no layer: {stack.path} has layers 0 to {stack.layers - 1}")
        if not 0 <= index < stack.widths[layer]:
            raise ValueError(
                f"neuron {(layer, index)} is outside its layer: layer {layer} of {stack.path} has neurons 0 to"
                f" {stack.widths[layer] - 1}"
            )
        if (layer, index) in found:
            raise ValueError(f"neuron {(layer, index)} is named twice; name each once")
        found[layer, index] = None
    return tuple(found)


def from_flat(ids: Sequence[int], *, width: int) -> list[Neuron]:
    """Neurons from ids that count layer after layer, as files of other tools have them; ``width`` neurons a layer.

    Raises:
        ValueError: a width or an id that cannot be.
    """
    if width < 1 or any(number < 0 for number in ids):
        raise ValueError(f"flat ids {list(ids)[:5]} with width={width}: ids are 0 or more, and a width 1 or more")
    return [divmod(int(number), width) for number in ids]


@torch.no_grad()
def value_vectors(stack: Stack, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The output vector of every neuron of a layer, in float32.

    A plain projection's weight is read off it. Of any other module (LoRA around it, packed weights) the vectors are
    what it makes of one-hot inputs, less what it makes of zeros: the merged weight.
    """
    module: Any = unwrapped(stack.down[layer])
    if type(module) is nn.Linear:
        return module.weight.detach().float().T
    if type(module) is Conv1D:
        return module.weight.detach().float()
    parameter = next(module.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    one_hot = torch.eye(stack.widths[layer], dtype=dtype, device=parameter.device)
    nothing = module(torch.zeros_like(one_hot[:1])).float()
    return torch.cat([module(rows).float() - nothing for rows in one_hot.split(_BLOCK)])


@torch.no_grad()
def final_gain(norm: Any) -> Float[Tensor, " d_model"]:
    """What the final norm multiplies each dimension by. Its weight may stand for w or, as Gemma's, for 1 + w: which of
    the two is seen from what the norm does to a vector of ones and minus ones."""
    weight = unwrapped(norm).get_parameter("weight")
    probe = torch.ones_like(weight)
    probe[1::2] = -1
    response = ((norm(probe[None, None]) - norm(-probe[None, None]))[0, 0] / (2 * probe)).float()
    plain = weight.float()
    return min((plain, 1 + plain), key=lambda gain: float((gain - response).abs().sum()))


def _stack(
    root: nn.Module, path: str, found: dict[int, nn.Module], stacks: int, *, layers: int = 0, flat: bool = False
) -> Stack:
    layers = layers or len(_blocks(root, path))
    if found and sorted(found) != list(range(layers)):
        raise ValueError(
            f"of the layers of {path}, only {sorted(found)} have a feed-forward layer that is not a mixture"
        )
    down = tuple(found[layer] for layer in sorted(found))
    decoder_path = path.rpartition(".")[0]
    decoder = module_at(root, decoder_path) if decoder_path else root
    assert decoder is not None
    embedding = _child(decoder, _EMBEDDINGS)
    head = _head(root, decoder_path) if embedding is not None else None
    unembedding = head or (embedding if _is_tied(root, decoder, embedding) else None)
    d_model = _shape(down[0])[1] if down else int(decoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
    return Stack(
        path=path,
        layers=layers,
        down=down,
        widths=tuple(_shape(module)[0] for module in down),
        d_model=d_model,
        embedding=embedding,
        unembedding=unembedding,
        final_norm=_child(decoder, _FINAL_NORMS, whole=True),
        read_by_head=_BESIDE_EXPERT not in path and (head is not None or unembedding is None or stacks == 1),
        flat=flat,
    )


def _blocks(root: nn.Module, path: str) -> nn.ModuleList:
    blocks = module_at(root, path)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _shape(projection: nn.Module) -> tuple[int, int]:
    module: Any = unwrapped(projection)
    return (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)


def _head(root: nn.Module, path: str) -> nn.Module | None:
    """The head of the nearest module around the decoder that has one."""
    parts = path.split(".") if path else []
    for length in range(len(parts), -1, -1):
        around = module_at(root, ".".join(parts[:length])) if length else root
        if around is not None and (head := _child(around, _HEADS)) is not None:
            return head
    return None


def _is_tied(root: nn.Module, decoder: nn.Module, embedding: nn.Module | None) -> bool:
    """Whether a decoder without a head unembeds with its embedding: it says so, and the model reads tokens by it."""
    read = getattr(root, "get_input_embeddings", lambda: None)()
    tied = getattr(getattr(decoder, "config", None), "tie_word_embeddings", False)
    return embedding is not None and read is not None and unwrapped(read) is embedding and bool(tied)


def _child(module: nn.Module, names: Sequence[str], *, whole: bool = False) -> nn.Module | None:
    """The first of some children that there is: without a bridge's component around it, or whole."""
    for name in names:
        if (child := module._modules.get(name)) is not None:
            return child if whole else unwrapped(child)
    return None


def _listed(stacks: Sequence[Stack]) -> str:
    return ", ".join(f"{stack.path!r} ({'' if stack.unembedding else 'no '}vocabulary)" for stack in stacks)


def projection(model: Any, layer: int) -> nn.Module:
    """The last projection of a layer's MLP, which writes to the residual stream.

    Raises:
        ValueError: mixtures of experts, which have one an expert; a family that is not declared.
    """
    return unwrapped(stack_of(model).down[layer])


def output_weights(model: Any, layer: int) -> Tensor:
    """[d_model, d_mlp] view of the last projection's weight, also where it is stored transposed (GPT-2)."""
    module = projection(model, layer)
    weight: Tensor = module.get_parameter("weight")
    return weight if isinstance(module, nn.Linear) else weight.T
