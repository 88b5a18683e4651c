"""Llama and its kin: a gated MLP, norms before attention and before the MLP."""

from dataclasses import replace
from typing import Any

from interp.models.families.family import BRIDGE, Family

LLAMA = Family()

OLMO = replace(
    LLAMA, rotary_in_float32=True, unread=frozenset({"ln1_normalized", "ln2_normalized", "ln_final_normalized"})
)
"""Its norms have no weights, which the bridge needs to go on from an edited value."""

QWEN3 = replace(LLAMA, q_norm="q_norm", k_norm="k_norm")

PHI3 = replace(
    LLAMA,
    fusion="stacked",
    q="qkv_proj",
    k="qkv_proj",
    v="qkv_proj",
    activation="activation_fn",
    up=None,
    gate_up="gate_up_proj",
)


def granite(config: Any) -> Family:
    """Granite, which multiplies its embedding and what its blocks add."""
    return replace(
        LLAMA,
        embedding_multiplier=config.embedding_multiplier,
        residual_multiplier=config.residual_multiplier,
        bridge=BRIDGE - {"embed", "attn_out", "mlp_out"},
    )


def cohere(config: Any) -> Family:
    """Command R: parallel, one norm a block."""
    return replace(QWEN3 if config.use_qk_norm else LLAMA, parallel=True, norm2=None)


def stablelm(config: Any) -> Family:
    """StableLM, parallel or not, with a norm of queries and keys or without."""
    family = replace(LLAMA, parallel=True, norm2=None) if config.use_parallel_residual else LLAMA
    if not config.qk_layernorm:
        return family
    return replace(family, q_norm="q_layernorm", k_norm="k_layernorm", query_key_norm_axes="heads_first")
