"""Runs in peers' environments: a HookedTransformer with the weights of a GPT-NeoX in a folder."""

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_neox_weights
from transformers import GPTNeoXForCausalLM


def hooked(folder: str) -> HookedTransformer:
    plain = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = plain.config
    rotary = config.rope_parameters
    d_head = config.hidden_size // config.num_attention_heads
    cfg = HookedTransformerConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        eps=config.layer_norm_eps,
        act_fn=config.hidden_act,
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=int(d_head * rotary["partial_rotary_factor"]),
        rotary_base=int(rotary["rope_theta"]),
        rotary_adjacent_pairs=False,
        parallel_attn_mlp=True,
        device="cpu",
    )
    model = HookedTransformer(cfg)
    model.load_state_dict(convert_neox_weights(plain, cfg), strict=False)
    return model
