"""Check tokens before a model sees them: what torch or a GPU says of wrong ones is hard to read, or nothing at all."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.models.bridge import is_bridge


def checked_inputs(model: Any, tokens: Any) -> tuple[Tensor, dict[str, Any]]:
    """``tokens`` on the model's device, and the options its forward pass is called with.

    Models that are not Hugging Face's get their input as it is.

    Raises:
        ValueError: not integers [batch, position]; empty; outside the vocabulary; longer than the model's context.
    """
    try:
        tokens = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"tokens must be integers [batch, position], in rows of one length: {error}") from None
    parameter = next(model.parameters(), None)
    device = tokens.device if parameter is None or parameter.is_meta else parameter.device
    hf_model: nn.Module = model.original_model if is_bridge(model) else model
    if not isinstance(hf_model, PreTrainedModel):
        return tokens.to(device), {}
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens must be integers, not {tokens.dtype}; ids from a tokenizer are int64")
    if tokens.ndim != 2:
        raise ValueError(
            f"tokens must be [batch, position], not of shape {list(tokens.shape)}; tokens[None] makes a row a batch"
        )
    if tokens.numel() == 0:
        raise ValueError(f"there are no tokens in shape {list(tokens.shape)}; give at least one row of one token")
    tokens = tokens.long()
    vocabulary = hf_model.get_input_embeddings().weight.shape[0]
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"token {low if low < 0 else high} is not in the vocabulary: the model has tokens 0 to {vocabulary - 1}."
            " Use its own tokenizer"
        )
    context = getattr(hf_model.config, "max_position_embeddings", None)
    if context is not None and tokens.shape[1] > context:
        raise ValueError(
            f"rows of {tokens.shape[1]} tokens are longer than the model's context of {context}; cut them into shorter"
            " rows"
        )
    return tokens.to(device), {"use_cache": False}
