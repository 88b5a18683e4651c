"""What the formats share: weights from files that are not trusted, checked before they are used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saes.activations import Activation
from saes.sae import SAE


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_pickled_tensors(path: Path) -> dict[str, Any]:
    """A state dict; a pickle with anything but tensors and plain containers is refused, not executed."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler fails in many ways
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or holds more than tensors, and was not executed: {first}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a dictionary of tensors")
    return value


def build(
    activation: Activation,
    weights: Mapping[str, Tensor],
    *,
    where: Path,
    subtract_b_dec: bool = True,
    site: str | None = None,
    target_site: str | None = None,
    provenance: dict[str, Any] | None = None,
) -> SAE:
    """An SAE of ours with the given weights, under our names and in our orientation.

    Raises:
        ValueError: a weight is missing, of another shape than the rest asks for, or not finite.
    """
    wanted = {"W_enc", "W_dec", "b_dec"}
    if missing := sorted(wanted - set(weights)):
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    for name in ("W_enc", "W_dec"):
        if weights[name].ndim != 2:
            raise ValueError(f"{where}: {name} has shape {tuple(weights[name].shape)}, expected a matrix")
    d_in, d_sae = weights["W_enc"].shape
    sae = SAE(
        d_in,
        d_sae,
        activation,
        d_out=weights["W_dec"].shape[1],
        subtract_b_dec=subtract_b_dec,
        skip="W_skip" in weights,
        site=site,
        target_site=target_site,
        provenance=provenance,
        dtype=weights["W_enc"].dtype,
    )
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name not in weights:
                if name == "b_enc":
                    continue
                raise ValueError(f"{where} lacks {name}")
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"{where}: {name} has shape {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
                )
            if not torch.isfinite(weights[name]).all():
                raise ValueError(f"{where}: {name} is not finite")
            parameter.copy_(weights[name])
    return sae


def state(sae: SAE) -> dict[str, Tensor]:
    """Weights as plain tensors on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in sae.named_parameters()}
