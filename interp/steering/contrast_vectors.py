"""Steering vectors from prompts that differ in one thing (Turner et al. 2023, arXiv 2308.10248; Rimsky et al. 2023).

The difference of mean residual streams, to be added with :func:`interp.steering.steer_residual`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.models.bridge import is_bridge
from interp.models.feed_forward import block_at, root_of, stack_of
from interp.models.source import require_raw_weights

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or what the model's forward pass takes (with images, say)."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Mean of the residual stream after a block on some prompts, less its mean on others."""

    layer: int
    vector: Float[Tensor, " d_model"]
    standard_error: Float[Tensor, " d_model"]
    """Over prompts; infinite where a side has only one."""
    n: tuple[int, int]
    """Prompts of each side."""


@torch.no_grad()
def contrast(
    model: Any,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    layer: int,
    position: str = "last",
    tokenizer: Any = None,
    stack: str | None = None,
) -> Contrast:
    """What ``positive`` prompts have and ``negative`` ones have not, after block ``layer``; each prompt runs alone.

    Args:
        model: as for ``steer``.
        positive: prompts: texts, token ids, or dictionaries of what the forward pass takes.
        negative: as many or another number.
        layer: number of the block.
        position: ``last``, or the ``mean`` over all positions.
        tokenizer: for texts; by default the model's own.
        stack: path of the blocks, where a model has several stacks.

    Raises:
        ValueError: no prompt on a side; a layer, position or prompt that cannot be.
    """
    require_raw_weights(model, purpose="contrast prompts")
    if position not in ("last", "mean"):
        raise ValueError(f"position={position!r} is not known; choose last or mean")
    if not positive or not negative:
        raise ValueError(f"{len(positive)} positive and {len(negative)} negative prompts: give at least one of each")
    block = block_at(model, stack_of(model, stack, mixtures=True), layer)
    sides = [
        torch.stack([_state(model, block, _inputs(model, prompt, tokenizer), position) for prompt in prompts])
        for prompts in (positive, negative)
    ]
    errors = [side.var(0) / len(side) if len(side) > 1 else torch.full_like(side[0], torch.inf) for side in sides]
    return Contrast(
        layer=layer,
        vector=sides[0].mean(0) - sides[1].mean(0),
        standard_error=(errors[0] + errors[1]).sqrt(),
        n=(len(positive), len(negative)),
    )


def _state(model: Any, block: nn.Module, inputs: Mapping[str, Any], position: str) -> Float[Tensor, " d_model"]:
    states: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(keep)
    try:
        root_of(model)(**inputs)
    finally:
        handle.remove()
    state = states[0].float()
    if len(state) != 1:
        raise ValueError(f"a prompt ran as a batch of {len(state)}; give each prompt alone, as a batch of one")
    return state[0, -1] if position == "last" else state[0].mean(0)


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
