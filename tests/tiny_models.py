"""Tiny random models of every family, built offline from their configurations; weights differ from layer to layer."""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from interp.models.loading import load_model

VOCAB, WIDTH, LAYERS, HEADS, CONTEXT = 64, 32, 3, 4, 32

_SHARED = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {"intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=VOCAB,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neox": GPTNeoXConfig(intermediate_size=128, use_parallel_residual=True, **_SHARED),
    "llama": LlamaConfig(**_SHARED, **_GROUPED),
    "gemma2": Gemma2Config(query_pre_attn_scalar=8, sliding_window=8, **_SHARED, **_GROUPED),
    "gemma3": Gemma3TextConfig(query_pre_attn_scalar=8, sliding_window=8, **_SHARED, **_GROUPED),
}
FAMILIES = tuple(CONFIGS)


def tiny_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A plain Hugging Face causal LM (eager attention) with weights large enough that no site is near zero."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family], attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def as_bridge(model: PreTrainedModel, *, dtype: str = "float32") -> Any:
    """The same weights as ``load_model`` gives them."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_model(folder, dtype=dtype, device="cpu")
