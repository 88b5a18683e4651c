# ruff: noqa: E402
"""Runs in SAEBench's environment, with our checkout on the path: its sparse probing, TPP and SCR, from activations on.

Arguments: the folder of an SAE, a safetensors file, and where folders of artifacts may be. The file has rows of each
class, ``probing/train/CLASS`` and ``probing/test/CLASS``, likewise of ``tpp`` and ``scr``, and the linear probes
``tpp/probe/CLASS`` and ``scr/probe/CLASS``, weights and bias. On stdout is what ``run_eval_single_dataset`` returns, as
JSON on the last line; of TPP and SCR with its own probes, and with the given ones.

What cannot be had offline is put in its place: texts (rows of activations stand for them) and the names of classes. Its
draws of rows of other classes take the first ones, so that both sides have the same rows.
"""

import json
import os
import sys

os.environ["JAXTYPING_DISABLE"] = "1"  # one of its functions has hints that its own calls do not fit
sys.modules["torchvision"] = None  # PyPI's is built for CUDA, and a CPU torch cannot load it

import torch
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing import main as sparse_probing
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import dataset_info
from safetensors.torch import load_file

from saes.sae import SAE
from saes.suites.saebench import for_saebench

torch.set_num_threads(1)
GIVEN = load_file(sys.argv[2])
SHUFFLED, NS = torch.randperm, [1, 2, 3, 5]


def of(evaluation, what):
    """Name of a class -> what is given of it."""
    begin = f"{evaluation}/{what}/"
    return {name.removeprefix(begin): value for name, value in GIVEN.items() if name.startswith(begin)}


def activations(evaluation):
    """In place of texts that run through a model: rows of one token."""
    train, test = ({name: x[:, None] for name, x in of(evaluation, side).items()} for side in ("train", "test"))
    return lambda *_: (train, test)


def probes_of(evaluation):
    found = {}
    for name, weights in of(evaluation, "probe").items():
        found[name] = probe_training.Probe(len(weights) - 1, torch.float32)
        found[name].net.weight.data, found[name].net.bias.data = weights[None, :-1].clone(), weights[-1:].clone()
    return found


def run(module, evaluation, config, *more):
    module.get_dataset_activations = activations(evaluation)
    sae = for_saebench(SAE.load(sys.argv[1]), model_name="planted")
    folder = f"{sys.argv[3]}/{evaluation}"
    return module.run_eval_single_dataset("given", config, sae, None, 0, "", "cpu", folder, False, *more)


def in_the_order_given(n, **_):
    return torch.arange(n)


class Given:
    """Their probes, or these, where theirs would be trained."""

    def __init__(self, probes):
        self.probes, self.trains = probes, probe_training.train_probe_on_activations

    def __enter__(self):
        if self.probes is not None:
            probe_training.train_probe_on_activations = lambda *_, **__: (self.probes, {})

    def __exit__(self, *_):
        probe_training.train_probe_on_activations = self.trains


prepared = probe_training.prepare_probe_data


def first_rows(*arguments, **options):
    """Their choice of rows of other classes, without a draw; epochs stay shuffled."""
    torch.randperm = in_the_order_given
    try:
        return prepared(*arguments, **options)
    finally:
        torch.randperm = SHUFFLED


probe_training.prepare_probe_data = first_rows
dataset_info.chosen_classes_per_dataset["given"] = list(of("tpp", "train"))
scr_and_tpp.COLUMN2_VALS_LOOKUP["given"] = ("male", "female")
torch.manual_seed(0)
found = {}
found["probing"], _ = run(sparse_probing, "probing", SparseProbingEvalConfig(k_values=NS))
for evaluation in ("tpp", "scr"):
    config = ScrAndTppEvalConfig(perform_scr=evaluation == "scr", n_values=NS, probe_epochs=200, probe_lr=1e-2)
    for name, probes in (("own probes", None), ("given probes", probes_of(evaluation))):
        with Given(probes):
            accuracies, clean = run(scr_and_tpp, evaluation, config, ("a", "b"))
        figures = scr_and_tpp.get_scr_plotting_dict if evaluation == "scr" else scr_and_tpp.create_tpp_plotting_dict
        scores = figures(accuracies, clean)
        found[f"{evaluation}, {name}"] = {"clean": clean, "scores": scores if evaluation == "scr" else scores[0]}
print(json.dumps(found))
