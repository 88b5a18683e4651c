"""What the formats share: weights from files that are not trusted, checked before they are used."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from interp.files.outside import reading
from saes.activations import Activation
from saes.sae import SAE

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file."""
    with reading(path):
        return load_file(path)


def read_pickled_tensors(path: Path) -> dict[str, Any]:
    """A state dict; a pickle with anything but tensors and plain containers is refused, not executed."""
    with reading(path, "is damaged or holds more than tensors, and was not executed"):
        value = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a dictionary of tensors")
    with reading(path, "holds a tensor of a kind that no SAE has"):
        for name, tensor in _tensors_in(value):
            if tensor.is_nested or tensor.is_quantized or tensor.layout is not torch.strided:
                raise ValueError(f"{name} is nested, sparse or quantised")
            # A view may claim any shape over one stored number, and take that much memory once it is copied.
            if tensor.is_meta or tensor.untyped_storage().nbytes() < tensor.nbytes:
                raise ValueError(f"{name} claims the shape {tuple(tensor.shape)}, but does not store its values")
    return value


def _tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state dict, by the names that lead to them."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors_in(entry, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _tensors_in(entry, name)


def whole_number(value: Any, *, name: str, where: Path) -> int:
    """A count from a configuration or a pickled tensor."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if type(value) is not int or value < 1:
        raise ValueError(f"{where}: {name} is {value!r}; it must be a whole number of 1 or more")
    return value


def text(value: Any) -> str | None:
    """A name from a configuration, where there is one."""
    return value if isinstance(value, str) else None


def build(
    activation: Activation,
    weights: Mapping[str, Any],
    *,
    where: Path,
    subtract_b_dec: bool = True,
    layer_norm: bool = False,
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
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: {name} is a {type(value).__name__}, not a tensor")
        if value.dtype not in _DTYPES:
            raise ValueError(f"{where}: {name} is of {value.dtype}; there are {', '.join(map(str, _DTYPES))}")
    for name in ("W_enc", "W_dec"):
        if weights[name].ndim != 2:
            raise ValueError(f"{where}: {name} has shape {tuple(weights[name].shape)}, expected a matrix")
    d_in, d_sae = weights["W_enc"].shape
    with torch.device("meta"):  # memory only once every shape is known to be right
        sae = SAE(
            d_in,
            d_sae,
            activation,
            d_out=weights["W_dec"].shape[1],
            subtract_b_dec=subtract_b_dec,
            skip="W_skip" in weights,
            layer_norm=layer_norm,
            site=site,
            target_site=target_site,
            provenance=provenance,
            dtype=weights["W_enc"].dtype,
        )
    for name, parameter in sae.named_parameters():
        if name not in weights:
            raise ValueError(f"{where} lacks {name}")
        if weights[name].shape != parameter.shape:
            raise ValueError(
                f"{where}: {name} has shape {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
            )
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"{where}: {name} is not finite")
    sae.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights[name])
    return sae


def state(sae: SAE) -> dict[str, Tensor]:
    """Weights as plain tensors on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in sae.named_parameters()}
