"""A GPT-NeoX whose massive activations were put there by hand, so that every one of them is known."""

from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from interp.models.loading import load_model

TOKEN, LAYER, DIM, NEURON = 7, 1, 37, 0
WIDTH, LAYERS = 128, 4


def planted_model(*, write: float = 20.0, read: float = 12.0, seed: int = 0) -> GPTNeoXForCausalLM:
    """Token 7 embeds to a unit vector in dimension 5; neuron 0 of block 1 fires on it and writes to dimension 37."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        model.gpt_neox.embed_in.weight[TOKEN] = torch.eye(WIDTH)[5]
        mlp = model.gpt_neox.layers[LAYER].mlp
        mlp.dense_h_to_4h.weight[NEURON] = read * torch.eye(WIDTH)[5]
        mlp.dense_h_to_4h.bias[NEURON] = -60.0
        mlp.dense_4h_to_h.weight[:, NEURON] = write * torch.eye(WIDTH)[DIM]
    return model


def planted_bridge(folder: Path, *, dtype: str = "float32", **options: Any) -> Any:
    """The same through ``load_model``."""
    planted_model(**options).save_pretrained(folder)
    return load_model(folder, dtype=dtype)


def planted_tokens() -> torch.Tensor:
    """Three sequences of 32 with four of token 7: none of them first, two in the last sequence."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(8, 64, (3, 32), generator=generator)
    for sequence, position in PLACES:
        tokens[sequence, position] = TOKEN
    return tokens


PLACES = ((0, 3), (1, 9), (2, 4), (2, 20))
