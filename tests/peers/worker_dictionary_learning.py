"""Runs in dictionary_learning's environment: what it computes with our SAEs, and SAEs that it trained and wrote."""

import json
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from worker_io import D_IN, D_SAE, K, exchange, randomise

STEPS = 5
TRAINERS = {
    "AutoEncoder": (StandardTrainer, {"sparsity_warmup_steps": None}),
    "AutoEncoderTopK": (TopKTrainer, {"k": K, "threshold_start_step": 0}),
    "BatchTopKSAE": (BatchTopKTrainer, {"k": K, "threshold_start_step": 0}),
    "GatedAutoEncoder": (GatedSAETrainer, {"sparsity_warmup_steps": None}),
    "JumpReluAutoEncoder": (JumpReluTrainer, {"sparsity_warmup_steps": None}),
    "MatryoshkaBatchTopKSAE": (
        MatryoshkaBatchTopKTrainer,
        {"k": K, "threshold_start_step": 0, "group_fractions": [0.125, 0.375, 0.5]},
    ),
}


def write_all(theirs: Path) -> None:
    """A few large steps of each of its trainers on random data, saved by its own loop."""
    common = {"activation_dim": D_IN, "dict_size": D_SAE, "layer": 3, "lm_name": "model", "device": "cpu"}
    common |= {"steps": STEPS, "warmup_steps": 1, "lr": 0.1}
    configs = [{"trainer": trainer} | common | options for trainer, options in TRAINERS.values()]
    data = (torch.randn(256, D_IN) for _ in range(STEPS + 1))
    trainSAE(data, configs, STEPS, save_dir=str(theirs), device="cpu")
    for i, name in enumerate(TRAINERS):
        (theirs / f"trainer_{i}").rename(theirs / name)
    # No trainer of this version makes this one.
    old = AutoEncoderNew(D_IN, D_SAE)
    randomise(old)
    folder = theirs / "AutoEncoderNew"
    folder.mkdir()
    torch.save(old.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderNew"}}))


def compute(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dictionary, config = load_dictionary(str(folder), device="cpu")
    if config["trainer"]["dict_class"] == "AutoEncoder":  # load_dictionary has rescaled it
        dictionary = AutoEncoder.from_pretrained(folder / "ae.pt", normalize_decoder=False)
    return dictionary.encode(x), dictionary(x)


exchange(compute, write_all)
