"""Steering vectors from prompts that differ in one thing (Turner et al. 2023, arXiv 2308.10248; Rimsky et al. 2023).

The difference of mean residual streams, to be added with :func:`interp.steering.steer_residual`. A token with a massive
activation is many times longer than the others, so a mean over positions is little but that token over the prompt's
length: between prompts of different length the difference would be the massive activation. Such tokens are left out.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.massive.detection import MassiveActivation, detect
from interp.massive.stats import extremes, stats_of
from interp.models.bridge import is_bridge
from interp.models.feed_forward import block_at, root_of, stack_of
from interp.models.source import require_raw_weights
from interp.terminal.short_repr import short_repr

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or what the model's forward pass takes (with images, say)."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Mean of the residual stream after a block on some prompts, less its mean on others.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> found = interp.contrast(model, ["Emma was glad", "Jack was glad"], ["Emma was sad"], layer=2)
        >>> found.layer, found.n
        (2, (2, 1))
    """

    layer: int
    """Block after which the stream was read, from 0."""
    vector: Float[Tensor, " d_model"]
    """Mean on the first prompts, less that on the others."""
    standard_error: Float[Tensor, " d_model"]
    """Over prompts; NaN where a side has only one."""
    n: tuple[int, int]
    """Prompts of each side."""
    left_out: tuple[int, int]
    """Tokens of each side that hold massive activations and are not in the mean."""

    __repr__ = short_repr


@torch.no_grad()
def contrast(
    model: Any,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    layer: int,
    position: str = "last",
    drop_massive: bool = True,
    tokenizer: Any = None,
    stack: str | None = None,
    **criteria: float,
) -> Contrast:
    """What ``positive`` prompts have and ``negative`` ones have not, after block ``layer``; each prompt runs alone.

    Args:
        model: as for ``steer``.
        positive: prompts: texts, token ids, or dictionaries of what the forward pass takes.
        negative: as many or another number.
        layer: number of the block.
        position: ``last``, or the ``mean`` over all positions.
        drop_massive: leave tokens out that hold a massive activation after ``layer`` or an earlier block, as
            :func:`interp.massive.detect` finds them. (In the last blocks they are no longer massive by that rule, and
            still far longer than the others.)
        tokenizer: for texts; by default the model's own.
        stack: path of the blocks, where a model has several stacks.
        criteria: of ``detect``: absolute, relative, mad, persistence (of the blocks up to ``layer``).

    Raises:
        ValueError: no prompt on a side; a layer, position or prompt that cannot be; a prompt of which nothing is left.

    Warns (UserWarning) where tokens were left out.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> found = interp.contrast(model, ["Emma was glad", "Jack was glad"], ["Emma was sad"], layer=2)
        >>> found.vector.shape
        torch.Size([96])
    """
    require_raw_weights(model, purpose="contrast prompts")
    if position not in ("last", "mean"):
        raise ValueError(f"position={position!r} is not known; choose last or mean")
    if not positive or not negative:
        raise ValueError(f"{len(positive)} positive and {len(negative)} negative prompts: give at least one of each")
    place = stack_of(model, stack, mixtures=True)
    last = block_at(model, place, layer)
    blocks = [*(block_at(model, place, number) for number in range(layer if drop_massive else 0)), last]
    sides: list[list[Tensor]] = []
    found: list[list[MassiveActivation]] = []
    for prompts in (positive, negative):
        states: list[Tensor] = []
        massive: list[MassiveActivation] = []
        for prompt in prompts:
            inputs = _inputs(model, prompt, tokenizer)
            hidden = _states(model, blocks, inputs)
            of_prompt = _massive_tokens(hidden, criteria) if drop_massive else {}
            states.append(_reduced(hidden[-1], set(of_prompt), position, prompt))
            massive += of_prompt.values()
        sides.append(states)
        found.append(massive)
    _say_what_was_left_out(found)
    means, errors = zip(*map(_mean_and_variance, sides), strict=True)
    return Contrast(
        layer=layer,
        vector=means[0] - means[1],
        standard_error=(errors[0] + errors[1]).sqrt(),
        n=(len(positive), len(negative)),
        left_out=(len(found[0]), len(found[1])),
    )


def _mean_and_variance(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of the states of one side, and of their mean."""
    side = torch.stack(list(states))
    return side.mean(0), side.var(0) / len(side) if len(side) > 1 else torch.full_like(side[0], torch.nan)


def _states(
    model: Any, blocks: Sequence[nn.Module], inputs: Mapping[str, Any]
) -> list[Float[Tensor, "position d_model"]]:
    """The residual stream after each of some blocks."""
    states: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).float())

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_hook(keep).remove)
        root_of(model)(**inputs)
    if len(states[0]) != 1:
        raise ValueError(f"a prompt ran as a batch of {len(states[0])}; give each prompt alone, as a batch of one")
    return [state[0] for state in states]


def _massive_tokens(
    hidden: Sequence[Float[Tensor, "position d_model"]], criteria: Mapping[str, float]
) -> dict[int, MassiveActivation]:
    """Position -> its largest massive activation, over the states after some blocks."""
    positions = torch.ones(1, len(hidden[0]), dtype=torch.bool)
    top = 16
    while True:
        top = min(top, hidden[0].numel())
        figures = torch.stack([extremes(state[None], positions, top).cpu() for state in hidden])
        stats = stats_of(figures, tuple(map(str, range(len(hidden)))), torch.zeros_like(positions, dtype=torch.long))
        found = detect(stats, **criteria)
        if not found.truncated or top == hidden[0].numel():
            ordered = sorted(found, key=lambda each: abs(each.value))
            return {each.position: each for each in ordered}
        top *= 4


def _reduced(
    state: Float[Tensor, "position d_model"], massive: set[int], position: str, prompt: Prompt
) -> Float[Tensor, " d_model"]:
    kept = [i for i in range(len(state)) if i not in massive]
    if not kept or (position == "last" and kept[-1] != len(state) - 1):
        which = "every token" if not kept else "the last token"
        raise ValueError(
            f"{which} of the prompt {prompt!r} holds a massive activation, so the state would be little else; give a"
            " longer prompt, or drop_massive=False"
        )
    return state[-1] if position == "last" else state[kept].mean(0)


def _say_what_was_left_out(found: Sequence[Sequence[MassiveActivation]]) -> None:
    every = [each for side in found for each in side]
    if every:
        largest = max(every, key=lambda each: abs(each.value))
        warnings.warn(
            f"{len(every)} tokens hold massive activations (the largest {largest.value:,.0f} at position"
            f" {largest.position}, dimension {largest.dim}, after block {largest.layer}) and are left out;"
            " drop_massive=False keeps them",
            stacklevel=4,
        )


def _inputs(model: Any, prompt: Prompt, tokenizer: Any) -> Mapping[str, Any]:
    if isinstance(prompt, Mapping):
        return prompt
    if not isinstance(prompt, str):
        ids = torch.tensor([list(prompt)], dtype=torch.long)
    elif tokenizer is None and is_bridge(model):
        ids = model.to_tokens(prompt)
    elif tokenizer is None:
        raise ValueError(f"the prompt {prompt!r} needs a tokenizer: pass tokenizer=…, or token ids")
    else:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    return {"input_ids": ids.to(next(root_of(model).parameters()).device)}
