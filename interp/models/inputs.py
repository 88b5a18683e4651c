"""Check tokens before a model sees them: what torch or a GPU says of wrong ones is hard to read, or nothing at all.

A prompt that is padded on its left stands at later positions than it would alone, and sees padding: its activations
are then wrong, and nothing fails. So the mask says which tokens are real, positions are counted from the first of
them, and a batch that looks padded is refused without one.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.models.bridge import is_bridge
from interp.models.families.table import FAMILIES, declared


def checked_inputs(model: Any, tokens: Any, attention_mask: Any = None) -> tuple[Tensor, dict[str, Any]]:
    """Token ids on the model's device, and the options its forward pass is called with.

    Models that are not Hugging Face's get their input as it is.

    Args:
        model: A bridge, a Hugging Face model, or any torch model.
        tokens: Integers [batch, position]; what a tokenizer returned, with its mask; or one text or several, which
            ``model.tokenizer`` reads (BOS as the published tokenizer has it).
        attention_mask: [batch, position], 1 or True where a token is real and 0 where it is padding.

    Raises:
        ValueError: not integers [batch, position]; empty; outside the vocabulary; longer than the model's context;
            padded without a mask; a mask of another shape or with holes; padding on the left in a family in which no
            test compared it.
    """
    hf_model: nn.Module = model.original_model if is_bridge(model) else model
    tokens, attention_mask = _opened(model, tokens, attention_mask)
    try:
        tokens = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"tokens must be integers [batch, position], in rows of one length: {error}") from None
    parameter = next(model.parameters(), None)
    device = tokens.device if parameter is None or parameter.is_meta else parameter.device
    if not isinstance(hf_model, PreTrainedModel):
        if attention_mask is not None:
            raise ValueError(f"{type(hf_model).__name__} is not a Hugging Face model: leave attention_mask out")
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
    options: dict[str, Any] = {"use_cache": False}
    if attention_mask is None:
        _refuse_padding(getattr(model, "tokenizer", None), tokens)
    elif not (mask := _checked_mask(attention_mask, tokens))[:, 0].all():
        # Padding on the right is behind every real token of its row, where no causal model looks.
        family = declared(hf_model.config)
        if family is not None and not family.left_padding:
            raise ValueError(
                f"attention of {hf_model.config.model_type!r} models counts columns of the batch, so that padding"
                " before a prompt changes what it gives: pad on the right, or run the prompts one by one"
            )
        if family is None:
            raise ValueError(
                f"padding on the left was compared in {', '.join(FAMILIES)}, not in {hf_model.config.model_type!r}: pad"
                " on the right, run the prompts one by one, or declare the family (see CONTRIBUTING.md)"
            )
        options |= {"attention_mask": mask.long().to(device)} | _positions(hf_model, mask.to(device))
    return tokens.to(device), options


def _opened(model: Any, tokens: Any, mask: Any) -> tuple[Any, Any]:
    """Ids and mask out of texts, or out of what a tokenizer returned."""
    if isinstance(tokens, str):
        tokens = [tokens]
    if isinstance(tokens, Sequence) and tokens and all(isinstance(text, str) for text in tokens):
        if mask is not None:
            raise ValueError("attention_mask is for token ids; texts are padded and masked here")
        if getattr(model, "tokenizer", None) is None:
            raise ValueError(f"{tokens[0][:40]!r} is text, and this model has no tokenizer: pass token ids")
        rows = [torch.tensor(model.tokenizer(text)["input_ids"]) for text in tokens]
        if empty := [text for text, row in zip(tokens, rows, strict=True) if not len(row)]:
            raise ValueError(f"{empty[0]!r} has no tokens; leave it out")
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    if isinstance(tokens, Mapping):
        if "input_ids" not in tokens:
            raise ValueError(f"a mapping of tokens has 'input_ids'; this one has {', '.join(map(str, tokens))}")
        return tokens["input_ids"], tokens.get("attention_mask") if mask is None else mask
    return tokens, mask


def _checked_mask(given: Any, tokens: Int[Tensor, "batch position"]) -> Bool[Tensor, "batch position"]:
    mask = torch.as_tensor(given, device=tokens.device)
    if mask.shape != tokens.shape:
        raise ValueError(f"attention_mask has shape {list(mask.shape)}, the tokens {list(tokens.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask must hold 1 where a token is real and 0 where it is padding, nothing else")
    mask = mask.bool()
    if not mask.any(1).all():
        raise ValueError(f"row {int((~mask.any(1)).nonzero()[0])} of the batch is all padding; leave it out")
    stretches = mask[:, 0].long() + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
    if (stretches > 1).any():
        raise ValueError(
            f"row {int((stretches > 1).nonzero()[0])} of attention_mask has a hole: padding stands before or behind the"
            " real tokens, not among them"
        )
    return mask


def _positions(hf_model: nn.Module, mask: Bool[Tensor, "batch position"]) -> dict[str, Tensor]:
    """Position ids that begin at 0 with each row's first real token; models without any go by the mask alone."""
    if "position_ids" not in inspect.signature(hf_model.forward).parameters:
        return {}
    return {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}


def _refuse_padding(tokenizer: Any, tokens: Int[Tensor, "batch position"]) -> None:
    """Where a tokenizer pads with a token of its own, none may be there; with its BOS or EOS, no run at a row's end."""
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return
    padding = tokens == pad
    if pad in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        at_an_end = torch.stack([padding[:, :2].all(1), padding[:, -2:].all(1)]).any(0)
        padding = padding & at_an_end[:, None]
    if padding.any() and not padding.all():
        row = int(padding.any(1).nonzero()[0])
        raise ValueError(
            f"row {row} of the batch has padding (token {pad}), and nothing says so to the model: pass"
            " attention_mask=…, what the tokenizer returned, or the texts themselves. Where these tokens are text, pass"
            " attention_mask=torch.ones_like(tokens)"
        )
