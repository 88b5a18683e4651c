"""Tiny random models of every family, built offline from their configurations; weights differ from layer to layer."""

import copy
from collections.abc import Iterable
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    Exaone4Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
    XGLMConfig,
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
"""Those in which everything of the packages is tested."""

_PAIRED = {"intermediate_size": 80, "num_key_value_heads": 2}
_MIXED = {"num_experts": 4, "num_experts_per_tok": 2}

# Every other family that is declared in interp.models.families, each in all the layouts that its declaration knows.
CONFIGS |= {
    "gpt_neox_sequential": GPTNeoXConfig(intermediate_size=128, use_parallel_residual=False, **_SHARED),
    "gemma3_mixed": Gemma3TextConfig(
        query_pre_attn_scalar=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **_SHARED,
        **_GROUPED,
    ),
    "gemma": GemmaConfig(**_SHARED, **_GROUPED),
    "mistral": MistralConfig(sliding_window=8, **_SHARED, **_GROUPED),
    "qwen2": Qwen2Config(**_SHARED, **_PAIRED),
    "qwen3": Qwen3Config(**_SHARED, **_GROUPED),
    "smollm3": SmolLM3Config(no_rope_layers=[1, 0, 1], **_SHARED, **_PAIRED),
    "olmo": OlmoConfig(**_SHARED, **_PAIRED),
    "olmo2": Olmo2Config(**_SHARED, **_PAIRED),
    "olmo3": Olmo3Config(sliding_window=8, **_SHARED, **_PAIRED),
    "exaone4": Exaone4Config(sliding_window=8, sliding_window_pattern=2, **_SHARED, **_PAIRED),
    "glm4": Glm4Config(**_SHARED, **_GROUPED),
    "granite": GraniteConfig(
        embedding_multiplier=3.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
        logits_scaling=2.0,
        **_SHARED,
        **_PAIRED,
    ),
    "cohere": CohereConfig(logit_scale=0.3, **_SHARED, **_PAIRED),
    "cohere_normed": CohereConfig(use_qk_norm=True, **_SHARED, **_PAIRED),
    "stablelm": StableLmConfig(**_SHARED, **_PAIRED),
    "stablelm_parallel": StableLmConfig(use_parallel_residual=True, qk_layernorm=True, **_SHARED, **_PAIRED),
    "starcoder2": Starcoder2Config(sliding_window=8, **_SHARED, **_PAIRED),
    "phi": PhiConfig(intermediate_size=80, **_SHARED),
    "phi_normed": PhiConfig(intermediate_size=80, qk_layernorm=True, **_SHARED),
    "phi3": Phi3Config(**_SHARED, **_PAIRED),
    "gptj": GPTJConfig(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, rotary_dim=4,
        bos_token_id=0, eos_token_id=0,
    ),
    "gpt_neo": GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_layers=2, num_heads=HEADS, max_position_embeddings=CONTEXT,
        attention_types=[[["global", "local"], 1]], window_size=8, bos_token_id=0, eos_token_id=0,
    ),
    "opt": OPTConfig(ffn_dim=80, word_embed_proj_dim=WIDTH, **_SHARED | {"pad_token_id": 1}),
    "opt_post_norm": OPTConfig(
        ffn_dim=80, word_embed_proj_dim=16, do_layer_norm_before=False, **_SHARED | {"pad_token_id": 1}
    ),
    "xglm": XGLMConfig(
        vocab_size=VOCAB, d_model=WIDTH, num_layers=LAYERS, attention_heads=HEADS, ffn_dim=80,
        max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    ),
    "falcon_7b": FalconConfig(multi_query=True, parallel_attn=True, bias=False, **_SHARED),
    "falcon_40b": FalconConfig(num_kv_heads=2, new_decoder_architecture=True, bias=False, **_SHARED),
    "falcon_11b": FalconConfig(
        num_kv_heads=2, new_decoder_architecture=True, num_ln_in_parallel_attn=1, bias=False, **_SHARED
    ),
    "falcon_1b": FalconConfig(multi_query=False, parallel_attn=False, bias=True, alibi=True, **_SHARED),
    "mixtral": MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **_SHARED, **_PAIRED),
    "qwen2_moe": Qwen2MoeConfig(
        moe_intermediate_size=24, shared_expert_intermediate_size=16, mlp_only_layers=[1], **_MIXED, **_SHARED,
        **_PAIRED,
    ),
    "qwen3_moe": Qwen3MoeConfig(moe_intermediate_size=24, **_MIXED, **_SHARED, **_GROUPED),
    "olmoe": OlmoeConfig(**_MIXED, **_SHARED, **_PAIRED),
    "gpt_oss": GptOssConfig(
        num_local_experts=4, num_experts_per_tok=2, sliding_window=8, rope_parameters={"rope_type": "default",
        "rope_theta": 10000.0}, **_SHARED, **_GROUPED,
    ),
    "granitemoe": GraniteMoeConfig(
        intermediate_size=48, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.3, logits_scaling=2.0, **_SHARED,
    ),
    "llama4_text": Llama4TextConfig(
        intermediate_size_mlp=80, num_local_experts=4, num_experts_per_tok=2, interleave_moe_layer_step=2,
        no_rope_layers=[1, 0, 1], attention_chunk_size=8, floor_scale=4,
        layer_types=["chunked_attention", "full_attention", "chunked_attention"], **_SHARED,
        **_GROUPED | {"intermediate_size": 24},
    ),
    "deepseek_v2": DeepseekV2Config(
        intermediate_size=80, moe_intermediate_size=24, num_key_value_heads=4, n_routed_experts=4, n_shared_experts=1,
        num_experts_per_tok=2, n_group=2, topk_group=1, topk_method="greedy", first_k_dense_replace=1, q_lora_rank=None,
        kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6, **_SHARED,
    ),
    "deepseek_v3": DeepseekV3Config(
        intermediate_size=80, moe_intermediate_size=24, num_key_value_heads=4, n_routed_experts=4, n_shared_experts=1,
        num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=12,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6, **_SHARED,
    ),
}  # fmt: skip
IN_A_BRIDGE = tuple(case for case in CONFIGS if case not in ("falcon_40b", "falcon_11b", "phi_normed"))
"""Without the layouts that transformer-lens cannot wrap, of which only the plain model is captured."""
_ALIKE = frozenset(
    "gpt_neox_sequential gemma3_mixed gemma mistral qwen2 smollm3 olmo3 exaone4 cohere_normed stablelm starcoder2"
    " phi_normed falcon_11b qwen3_moe".split()
)


def cases(names: Iterable[str]) -> list[Any]:
    """Tiny models to go over in a test; those whose declarations are nearly another's have the mark ``slow``."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in _ALIKE else name for name in names]


def tiny_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A plain Hugging Face causal LM with weights large enough that no site is near zero.

    Attention is eager, except in Falcon with linear biases: transformers 5.23 counts them twice there.
    """
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[family])
    attention = "sdpa" if getattr(config, "alibi", False) else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def as_bridge(model: PreTrainedModel, *, dtype: str = "float32") -> Any:
    """The same weights as ``load_model`` gives them."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_model(folder, dtype=dtype, device="cpu")
