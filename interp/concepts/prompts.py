"""States of prompts at their last token, and gradients of a token's logit there."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.inference_mode import refuse_inference_mode
from interp.models.plain import require_tested_family
from interp.models.source import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.steering.site_edits import intervene
from interp.terminal.progress import counted

Prompt = str | Sequence[int]
"""A text, or token ids."""


def last_states(
    model: Any, prompts: Sequence[Prompt], *, layers: Sequence[int] | None = None
) -> dict[int, Float[Tensor, "prompts d_model"]]:
    """Layer -> residual stream after the block at the last token of each prompt.

    Raises:
        ValueError: no prompt, an empty one, processed weights, a layer that is not there.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.concepts.last_states(model, ["Emma was", "A tale"])[3].shape
        torch.Size([2, 96])
    """
    require_raw_weights(model, purpose="read concepts")
    chosen = _layers(model, layers)
    sites = [Site("resid_post", layer) for layer in chosen]
    rows = [
        capture(model, _ids(model, prompt), sites, positions=[-1])
        for prompt in counted(_checked(prompts), "read prompts", unit="prompts")
    ]
    return {site.layer or 0: torch.cat([row[site][:, 0] for row in rows]).float().cpu() for site in sites}


def target_gradients(
    model: Any, prompts: Sequence[Prompt], target: int, *, layers: Sequence[int] | None = None
) -> dict[int, Float[Tensor, "prompts d_model"]]:
    """Layer -> gradient of the logit of ``target`` after each prompt by the residual stream at its last token.

    Raises:
        ValueError: as :func:`last_states`; a target outside the vocabulary; a family in which no test compared it;
            inference mode.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> grads = interp.concepts.target_gradients(model, ["Emma was", "A tale of"], 30, layers=[1])
        >>> grads[1].shape
        torch.Size([2, 96])
    """
    require_raw_weights(model, purpose="take gradients of a target")
    require_tested_family(model, "gradients of a target")
    refuse_inference_mode("gradients of a target", model)
    if not 0 <= target < model.cfg.d_vocab:
        raise ValueError(f"target={target}; the vocabulary has tokens 0 to {model.cfg.d_vocab - 1}")
    chosen = _layers(model, layers)
    found: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    for prompt in counted(_checked(prompts), "take gradients", unit="prompts"):
        ids = _ids(model, prompt)
        nothing: dict[int, Tensor] = {}

        def add_nothing(layer: int, old: Tensor, nothing: dict[int, Tensor] = nothing) -> Tensor:
            nothing[layer] = torch.zeros_like(old, requires_grad=True)
            return old + nothing[layer]

        edits: Any = {Site("resid_post", layer): partial(add_nothing, layer) for layer in chosen}
        with torch.enable_grad(), intervene(model, edits):
            logit = model(ids)[0, -1, target]
            gradients = torch.autograd.grad(logit, [nothing[layer] for layer in chosen])
        for layer, gradient in zip(chosen, gradients, strict=True):
            found[layer].append(gradient[0, -1].float().cpu())
    return {layer: torch.stack(each) for layer, each in found.items()}


def _layers(model: Any, layers: Sequence[int] | None) -> list[int]:
    chosen = list(range(len(model.blocks))) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(model.blocks):
        raise ValueError(f"layers {chosen} are not all in the model, which has 0 to {len(model.blocks) - 1}")
    return chosen


def _checked(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    if isinstance(prompts, str) or not len(prompts) or not all(len(prompt) for prompt in prompts):
        raise ValueError("give a list of one prompt or more, none of them empty")
    return prompts


def _ids(model: Any, prompt: Prompt) -> Tensor:
    return model.to_tokens(prompt) if isinstance(prompt, str) else torch.tensor([list(prompt)], dtype=torch.long)
