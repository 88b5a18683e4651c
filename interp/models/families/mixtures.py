"""Mixtures of experts. In layers without experts the MLP is Llama's."""

from dataclasses import replace
from typing import Any

from interp.models.families.family import BRIDGE, Family, Latent, Mixture
from interp.models.families.gpt import UNREAD_PATTERN
from interp.models.families.llama import LLAMA, QWEN3, granite

MIXTRAL = replace(LLAMA, mixture=Mixture())

QWEN3_MOE = replace(QWEN3, mixture=Mixture())

OLMOE = replace(MIXTRAL, q_norm="q_norm", k_norm="k_norm", query_key_norm_axes="flat")

GPT_OSS = replace(LLAMA, sinks=True, mixture=Mixture(router="router"))


LLAMA4 = replace(
    LLAMA,
    mlp="feed_forward",
    activation="activation_fn",
    inner_norms=("qk_norm",),  # behind rotary embedding, without weights
    left_padding=False,  # chunks of attention, and the scales of layers without rotary embedding, begin at column 0
    mixture=Mixture(router="router", dense=True),
    bridge=BRIDGE - {"scores"},  # it shows patterns there
    unread=UNREAD_PATTERN,
)


def granitemoe(config: Any) -> Family:
    """Granite with a mixture of experts in every block."""
    return replace(granite(config), mlp="block_sparse_moe", mixture=Mixture(router="router"))


def deepseek(config: Any) -> Family:
    """DeepSeek-V2, V3 and R1, whose queries may go through a small vector too."""
    small = config.q_lora_rank is not None
    return replace(
        MIXTRAL,
        q="q_b_proj" if small else "q_proj",
        latent=Latent(),
        inner_norms=("q_a_layernorm", "kv_a_layernorm") if small else ("kv_a_layernorm",),
        bridge=BRIDGE - {"q", "k", "v", "z"},  # it shows them with other axes, and queries after rotary embedding
    )
