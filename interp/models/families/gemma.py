"""Families with a norm between attention or MLP and the residual stream: Gemma 2 and 3, GLM-4, OLMo 2 and 3, EXAONE."""

from dataclasses import replace

from interp.models.families.family import Family
from interp.models.families.llama import LLAMA, PHI3

GEMMA2 = replace(
    LLAMA,
    attention_post_norm="post_attention_layernorm",
    norm2="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)

GEMMA3 = replace(GEMMA2, q_norm="q_norm", k_norm="k_norm", query_key_norm_axes="heads_first")

GLM4 = Family(
    attention_post_norm="post_self_attn_layernorm",
    activation=PHI3.activation,
    up=None,
    gate_up=PHI3.gate_up,
    mlp_post_norm="post_mlp_layernorm",
)

OLMO2 = replace(
    LLAMA,
    norm1=None,
    q_norm="q_norm",
    k_norm="k_norm",
    query_key_norm_axes="flat",
    attention_post_norm="post_attention_layernorm",
    norm2=None,
    mlp_post_norm="post_feedforward_layernorm",
    rotary_in_float32=True,
)

EXAONE4 = replace(OLMO2, query_key_norm_axes="heads_first", rotary_in_float32=False)
