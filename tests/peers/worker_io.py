"""What the workers share. They run in a peer's environment, which has torch and safetensors but nothing of ours.

In the folder they are given, ``x.safetensors`` has the inputs and ``ours`` the SAEs that we wrote. They write SAEs of
their own to ``theirs``, and beside every SAE, of both, what the peer computes with it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D_IN, D_OUT, D_SAE, K = 64, 48, 1024, 16
ENCODER_BIASES = ("b_enc", "b_gate", "encoder.bias", "gate_bias")
THRESHOLD = 0.5
Compute = Callable[[Path, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Loads the SAE in a folder as the peer does; its dense latents and its output of some inputs."""


def exchange(compute: Compute, write_all: Callable[[Path], None]) -> None:
    """All of a worker's work: ``write_all`` makes one folder for each SAE of the peer's own."""
    work = Path(sys.argv[1])
    torch.set_num_threads(1)  # as in the tests: the order of sums may depend on it
    torch.manual_seed(0)
    (work / "theirs").mkdir()
    write_all(work / "theirs")
    x = load_file(work / "x.safetensors")["x"]
    for folder in [*(work / "ours").iterdir(), *(work / "theirs").iterdir()]:
        with torch.no_grad():
            latents, output = compute(folder, x.clone())
        found = {"latents": latents.contiguous(), "output": output.contiguous()}
        save_file(found, folder.with_name(f"{folder.name}.safetensors"))


@torch.no_grad()
def randomise(sae: torch.nn.Module) -> None:
    """Random weights with which one or two latents in a hundred are active, on inputs of variance 1."""
    for name, weights in sae.named_parameters():
        weights.copy_(torch.randn(weights.shape) * (D_IN**-0.5 if weights.ndim == 2 else 0.1))
        if name in ENCODER_BIASES:
            weights.sub_(2.0)
        if name == "threshold":
            weights.add_(THRESHOLD)
