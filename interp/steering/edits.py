"""Steer a model by its feed-forward neurons (Häon et al. 2025, arXiv 2509.00328, eq. 2 and 3), or by vectors.

The input of a layer's last projection holds one activation a neuron. Within ``steer`` the chosen ones are set to a
value (the paper's intervention), added to, or multiplied; within ``steer_residual`` a vector is added to what blocks
write. Hooks work on copies, so what others captured stays as it was, and gradients flow, also into the value. They are
gone when the block ends, however it ends. Contexts inside each other apply in the order in which they were entered.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from interp.models.feed_forward import Stack, block_at, checked_neurons, stack_of
from interp.models.source import require_raw_weights
from interp.steering.positions import Positions

Scope = Any
"""A name in ``interp.steering.positions.SCOPES``, or a boolean mask [position] or [batch, position]."""

_EDITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "set": lambda a, value: value.expand_as(a),
    "add": lambda a, value: a + value,
    "scale": lambda a, value: a * value,
}


@contextmanager
def steer(
    model: Any,
    *,
    neurons: Iterable[Any],
    mode: str = "set",
    value: float | Sequence[float] | Tensor,
    scope: Scope = "all",
    stack: str | None = None,
    prompt_length: int | None = None,
    image_mask: Tensor | None = None,
) -> Iterator[None]:
    """Within the block the activations of ``neurons`` are changed in every forward pass, ``generate`` included.

    Args:
        model: a bridge from ``load_model``, or a torch model such as transformers' PaliGemma, PI0 or SmolVLM.
        neurons: pairs (layer, index). An empty sequence changes nothing.
        mode: ``set`` overwrites (a value of 0 is an ablation, not a no-op), ``add`` adds, ``scale`` multiplies.
        value: one number for all neurons, or one for each. It means something only beside the natural size of the
            activations: too small does nothing, too large breaks the model.
        scope: ``all`` positions of all calls; ``prefill``, those of the prompt, or ``decode``, those after it;
            ``image``, or ``text``, all others that are no padding; ``last``, those from which a token is predicted. Or
            a mask: [position] counts tokens of every row without padding, [batch, position] counts columns; what
            comes after its end is left alone.
        stack: path of the blocks, where a model has several stacks and not the one with the vocabulary is meant.
        prompt_length: columns of the prompt. By default what a call without a cache is given, which is all there is
            where ``generate`` runs with ``use_cache=False``.
        image_mask: [batch, position], for models whose forward pass does not see the image's positions.

    Raises:
        ValueError: a neuron, mode, value or scope that cannot be; processed weights.

    Warns (UserWarning) where the last layer of a stack changes nothing (PI0), where a stack has no vocabulary, and
    where the model ran and the scope never selected a position.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> with interp.steer(model, neurons=[(2, 17)], value=3.0):
        ...     acts = interp.capture(model, "Emma was", "blocks.2.mlp.hook_post")
        >>> acts["blocks.2.mlp.hook_post"][0, :, 17].unique()
        tensor([3.])
    """
    require_raw_weights(model, purpose="steer")
    place = stack_of(model, stack)
    if place.flat:
        raise ValueError(
            f"the projections at {place.path!r} see tokens without their batch, so no scope can choose among positions"
            " there; use steer_residual"
        )
    chosen = checked_neurons(place, neurons)
    if mode not in _EDITS:
        raise ValueError(f"mode={mode!r} is not known; choose {', '.join(_EDITS)}")
    values = _values(value, len(chosen))
    positions = Positions(model, place, scope, prompt_length=prompt_length, image_mask=image_mask)
    layers = sorted({layer for layer, _ in chosen})
    _warn_of_what_does_nothing(place, layers)

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        members = [i for i, neuron in enumerate(chosen) if neuron[0] == layer]
        indices = torch.tensor([chosen[i][1] for i in members])

        def edit(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            before = args[0]
            at = indices.to(before.device)
            old = before[..., at]
            new = _EDITS[mode](old, values[members].to(before.device, before.dtype))
            selected = positions.select(before)
            new = new if selected is None else torch.where(selected[..., None], new, old)
            return (before.index_copy(-1, at, new), *args[1:])

        return edit

    with ExitStack() as hooks:
        if chosen:
            positions.attach(hooks)
        for layer in layers:
            hooks.callback(place.down[layer].register_forward_pre_hook(hook(layer)).remove)
        yield
    _warn_of_no_position(positions)


@contextmanager
def steer_residual(
    model: Any,
    vectors: Mapping[int, Tensor],
    *,
    value: float | Tensor = 1.0,
    scope: Scope = "all",
    stack: str | None = None,
    prompt_length: int | None = None,
    image_mask: Tensor | None = None,
) -> Iterator[None]:
    """Within the block ``value`` times a vector is added to the residual stream after each of some blocks.

    Args:
        model: as for :func:`steer`.
        vectors: layer -> [d_model], such as ``contrast(…).vector``, ``sae.W_dec[latent]``, or a value vector.
        value: factor.
        scope: as for :func:`steer`, as are the others.

    Raises:
        ValueError: a layer that is not there, a vector of another width, a scope that cannot be.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> vector = model.W_U[:, 100]  # what raises one token
        >>> plain = model("Emma was")
        >>> with interp.steer_residual(model, {2: vector}, value=5.0):
        ...     bool((model("Emma was") != plain).any())
        True
    """
    require_raw_weights(model, purpose="steer")
    place = stack_of(model, stack, mixtures=True)
    blocks = {layer: block_at(model, place, layer) for layer in vectors}
    for layer, vector in vectors.items():
        _check_width(vector, layer, place)
    positions = Positions(model, place, scope, prompt_length=prompt_length, image_mask=image_mask)
    _warn_of_what_does_nothing(place, sorted(blocks))

    def hook(vector: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
        def edit(_module: nn.Module, _args: Any, output: Any) -> Any:
            before = output[0] if isinstance(output, tuple) else output
            selected = positions.select(before)
            moved = before + value * vector.to(before.device, before.dtype)
            after = moved if selected is None else torch.where(selected[..., None], moved, before)
            return (after, *output[1:]) if isinstance(output, tuple) else after

        return edit

    with ExitStack() as hooks:
        if blocks:
            positions.attach(hooks)
        for layer, block in blocks.items():
            hooks.callback(block.register_forward_hook(hook(vectors[layer])).remove)
        yield
    _warn_of_no_position(positions)


def _values(value: Any, neurons: int) -> Tensor:
    """One for each neuron, still attached to the graph of ``value``."""
    values = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float32)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != neurons):
        raise ValueError(f"value has shape {list(values.shape)}; give one number, or one for each of {neurons} neurons")
    if not values.detach().isfinite().all():
        raise ValueError(f"value={value!r} is not finite")
    return values.expand(neurons)


def _check_width(vector: Tensor, layer: int, place: Stack) -> None:
    if vector.shape != (place.d_model,):
        raise ValueError(
            f"the vector of layer {layer} has shape {list(vector.shape)}; the residual stream has [{place.d_model}]"
        )


_AT_CALLER = 4
"""Of warnings: past the helper, the generator, and contextlib."""


def _warn_of_what_does_nothing(place: Stack, layers: Sequence[int]) -> None:
    if layers and place.unembedding is None:
        warnings.warn(
            f"the stack at {place.path!r} has no vocabulary: nothing says what its neurons stand for",
            stacklevel=_AT_CALLER,
        )
    if not place.read_by_head and place.layers - 1 in layers:
        warnings.warn(
            f"layer {place.layers - 1} is the last of {place.path!r}, of which the action expert reads only keys and"
            " values: what its feed-forward layer writes is read by nothing, so steering it changes no action",
            stacklevel=_AT_CALLER,
        )


def _warn_of_no_position(positions: Positions) -> None:
    if positions.calls and not positions.touched:
        warnings.warn(
            "the model ran, but the scope selected none of the positions it saw: nothing was steered",
            stacklevel=_AT_CALLER,
        )
