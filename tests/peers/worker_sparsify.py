"""Runs in sparsify's environment: what it computes with our SAEs, and SAEs that it wrote itself."""

from pathlib import Path

import torch
from sparsify import SparseCoder, SparseCoderConfig
from worker_io import D_IN, D_SAE, K, exchange, randomise

CODERS = {
    "topk": {},
    "topk, skip_connection": {"skip_connection": True},
    "topk, transcode": {"transcode": True},
    "topk, transcode, skip_connection": {"transcode": True, "skip_connection": True},
    "groupmax": {"activation": "groupmax"},
}


def write_all(theirs: Path) -> None:
    for name, options in CODERS.items():
        coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K, **options))
        randomise(coder)
        coder.save_to_disk(theirs / name)


def compute(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    coder = SparseCoder.load_from_disk(folder)
    values, indices, _ = coder.encode(x)
    return torch.zeros(len(x), D_SAE).scatter_(-1, indices, values), coder(x).sae_out


exchange(compute, write_all)
