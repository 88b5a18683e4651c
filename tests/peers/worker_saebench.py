# ruff: noqa: E402
"""Runs in SAEBench's environment, with our checkout on the path: its code on an SAE of ours, through the adapter.

Arguments: the model's folder, the SAE's folder, a safetensors file with ``ids``, the folder of a planted SAE, one with
``x``, ``direction`` and ``main``, and where to write what its absorption and ablation give. Core figures are on stdout,
as JSON on the last line.
"""

import json
import sys

sys.modules["torchvision"] = None  # PyPI's is built for CUDA, and a CPU torch cannot load it

import torch
from hooked_neox import hooked
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.core.main import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_bench.evals.scr_and_tpp.main import ablated_precomputed_activations
from safetensors.torch import load_file, save_file

from saes.sae import SAE
from saes.suites.saebench import for_saebench

ROWS = 8


class Rows:
    """What the evaluation asks of an activation store."""

    def __init__(self, ids):
        self.batches = iter(ids.split(ROWS))

    def get_batch_tokens(self, _rows):
        return next(self.batches)


class Prompt:
    """A word that stands for a row of activations."""

    def __init__(self, number):
        self.word = self.base = str(number)


class Planted:
    """Answers with rows where a model's activations are asked for."""

    def __init__(self, x):
        self.x = x

    def run_with_cache(self, words, names_filter):
        return None, {names_filter[0]: self.x[[int(word) for word in words]][:, None]}


class Calculator(FeatureAbsorptionCalculator):
    """Its own, but rows in place of prompts."""

    def _build_prompts(self, words):
        return [Prompt(word) for word in words]

    def _validate_prompts_are_same_length(self, prompts):
        pass


torch.set_num_threads(1)
model, sae = hooked(sys.argv[1]), for_saebench(SAE.load(sys.argv[2]), model_name="embedded")
ids = load_file(sys.argv[3])["ids"]
common = {"n_batches": len(ids) // ROWS, "eval_batch_size_prompts": ROWS}
with torch.no_grad():
    downstream = get_downstream_reconstruction_metrics(
        sae, model, Rows(ids), compute_kl=True, compute_ce_loss=True, **common
    )
    variance, _ = get_sparsity_and_variance_metrics(
        sae,
        model,
        Rows(ids),
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        model_kwargs={},
        **common,
    )
    given = load_file(sys.argv[5])
    planted = for_saebench(SAE.load(sys.argv[4]), model_name="planted")
    calculator = Calculator(model=Planted(given["x"]), icl_word_list=[], word_token_pos=0, topk_feats=2)
    words = calculator.calculate_absorption(
        planted, range(len(given["x"])), given["direction"], given["main"].tolist(), layer=0, show_progress=False
    ).word_results
    chosen = torch.zeros(planted.cfg.d_sae, dtype=torch.bool)
    chosen[given["main"]] = True
    ablated = ablated_precomputed_activations(given["x"][:, None], planted, chosen, 64)
save_file(
    {
        "fraction": torch.tensor([float(word.absorption_fraction) for word in words]),
        "full": torch.tensor([float(word.is_full_absorption) for word in words]),
        "ablated": ablated.contiguous(),
    },
    sys.argv[6],
)
print(json.dumps(downstream | variance))
