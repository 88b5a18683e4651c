"""Mixtures of experts. In layers without experts the MLP is Llama's."""

from dataclasses import replace
from typing import Any

from interp.models.families.family import BRIDGE, Family, Latent, Mixture
from interp.models.families.llama import LLAMA, QWEN3

MIXTRAL = replace(LLAMA, mixture=Mixture())

QWEN3_MOE = replace(QWEN3, mixture=Mixture())

OLMOE = replace(MIXTRAL, q_norm="q_norm", k_norm="k_norm", query_key_norm_axes="flat")

GPT_OSS = replace(LLAMA, sinks=True, mixture=Mixture(router="router"))


def deepseek_v3(config: Any) -> Family:
    """DeepSeek-V3 and R1, whose queries may go through a small vector too."""
    small = config.q_lora_rank is not None
    return replace(
        MIXTRAL,
        q="q_b_proj" if small else "q_proj",
        latent=Latent(),
        inner_norms=("q_a_layernorm", "kv_a_layernorm") if small else ("kv_a_layernorm",),
        bridge=BRIDGE - {"q", "k", "v", "z"},  # it shows them with other axes, and queries after rotary embedding
    )
