"""GPT-2 and its kin: no gated MLP; LayerNorm, with biases in most."""

from dataclasses import replace
from typing import Any

from interp.models.families.family import BRIDGE, Family

UNREAD_PATTERN = frozenset({"pattern"})
"""Where a bridge leaves attention to the Hugging Face module, which has used its pattern when the bridge shows it."""

GPT2 = Family(
    blocks="transformer.h",
    embedding="transformer.wte",
    position_embedding="transformer.wpe",
    final_norm="transformer.ln_f",
    norm1="ln_1",
    attention="attn",
    fusion="stacked",
    q="c_attn",
    k="c_attn",
    v="c_attn",
    o="c_proj",
    norm2="ln_2",
    activation="act",
    up=None,
    down="c_proj",
)

GPT_NEO = replace(
    GPT2,
    block_returns_tuple=True,
    attention="attn.attention",
    fusion="separate",
    q="q_proj",
    k="k_proj",
    v="v_proj",
    o="out_proj",
    bridge=BRIDGE - {"scores"},  # it shows patterns there
    unread=UNREAD_PATTERN,
)

GPTJ = replace(GPT_NEO, attention="attn", position_embedding=None, parallel=True, norm2=None, down="fc_out")

PHI = Family(
    final_norm="model.final_layernorm",
    parallel=True,
    o="dense",
    norm2=None,
    activation="activation_fn",
    up=None,
    down="fc2",
)

XGLM = Family(
    position_embedding="model.embed_positions",
    final_norm="model.layer_norm",
    norm1="self_attn_layer_norm",
    o="out_proj",
    norm2="final_layer_norm",
    mlp=None,
    first="fc1",
    activation="activation_fn",
    up=None,
    down="fc2",
    bridge=BRIDGE - {"scores"},
    unread=UNREAD_PATTERN,
)

STARCODER2 = Family(activation="act", up=None, down="c_proj")


def gpt_neox(config: Any) -> Family:
    """GPT-NeoX and Pythia."""
    return Family(
        blocks="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        parallel=config.use_parallel_residual,
        attention="attention",
        fusion="grouped",
        q="query_key_value",
        k="query_key_value",
        v="query_key_value",
        o="dense",
        activation="act",
        up=None,
        down="dense_4h_to_h",
    )


def phi(config: Any) -> Family:
    """Phi-1 to Phi-2."""
    if not config.qk_layernorm:
        return PHI
    return replace(PHI, q_norm="q_layernorm", k_norm="k_layernorm", query_key_norm_axes="heads_first")


def opt(config: Any) -> Family:
    """OPT, whose 350m puts its norms behind attention and MLP, in the residual stream itself."""
    before = config.do_layer_norm_before
    return replace(
        XGLM,
        blocks="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        embedding_projection=None if config.word_embed_proj_dim == config.hidden_size else "model.decoder.project_in",
        position_embedding="model.decoder.embed_positions",
        final_norm="model.decoder.final_layer_norm" if before and not config._remove_final_layer_norm else None,
        post_layer_norm=not before,
        bridge=BRIDGE - {"scores", "ln2_scale", "ln2_normalized"} - (set() if before else {"embed", "resid_mid"}),
    )


def falcon(config: Any) -> Family:
    """Falcon in its three layouts: 40B's new decoder, 7B's single key-value head, and 1B's sequential block."""
    new, parallel = config.new_decoder_architecture, config.new_decoder_architecture or config.parallel_attn
    two_norms = new and config.num_ln_in_parallel_attn in (None, 2)
    return Family(
        blocks="transformer.h",
        embedding="transformer.word_embeddings",
        final_norm="transformer.ln_f",
        parallel=parallel,
        in_place=parallel,
        block_returns_tuple=True,
        norm1="ln_attn" if two_norms else "input_layernorm",
        attention="self_attention",
        fusion="stacked" if config.multi_query and not new else "grouped",
        q="query_key_value",
        k="query_key_value",
        v="query_key_value",
        key_value_heads=config.num_kv_heads if new else 1 if config.multi_query else config.num_attention_heads,
        o="dense",
        eager=not config.alibi,
        norm2="ln_mlp" if two_norms else None if parallel else "post_attention_layernorm",
        activation="act",
        up=None,
        down="dense_4h_to_h",
        bridge=frozenset() if config.alibi else BRIDGE,
    )
