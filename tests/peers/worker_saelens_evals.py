"""Runs in SAELens's environment: its evaluation of one SAE on given rows of tokens, as JSON on the last line.

Arguments: the model's folder, the SAE's folder, a safetensors file with ``ids``. The model is a HookedTransformer with
the weights of the GPT-NeoX in the folder.
"""

import json
import sys

import torch
from hooked_neox import hooked
from sae_lens import SAE
from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file

ROWS = 8


class Rows:
    """What the evaluation asks of an activation store."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.batches = iter(ids.split(ROWS))

    def get_batch_tokens(self, _rows: int) -> torch.Tensor:
        return next(self.batches)


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
