"""Runs in SAELens's environment: its evaluation of one SAE on given rows of tokens, as JSON on the last line.

Arguments: the model's folder, the SAE's folder, a safetensors file with ``ids``. The model is a HookedTransformer with
the weights of the GPT-NeoX in the folder.
"""

import json
import sys

import torch
from sae_lens import SAE
from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_neox_weights
from transformers import GPTNeoXForCausalLM

ROWS = 8


class Rows:
    """What the evaluation asks of an activation store."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.batches = iter(ids.split(ROWS))

    def get_batch_tokens(self, _rows: int) -> torch.Tensor:
        return next(self.batches)


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


torch.set_num_threads(1)
model, sae = hooked(sys.argv[1]), SAE.load_from_disk(sys.argv[2])
ids = load_file(sys.argv[3])["ids"]
common = {"n_batches": len(ids) // ROWS, "eval_batch_size_prompts": ROWS}
with torch.no_grad():
    downstream = get_downstream_reconstruction_metrics(
        sae, model, Rows(ids), ActivationScaler(), compute_kl=True, compute_ce_loss=True, **common
    )
    variance, _ = get_sparsity_and_variance_metrics(
        sae,
        model,
        Rows(ids),
        ActivationScaler(),
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        model_kwargs={},
        **common,
    )
print(json.dumps(downstream | variance))
