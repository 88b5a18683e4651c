"""Whether a model folder's weight files can hold what its configuration claims, asked before memory is taken for it.

transformers makes the model that a configuration describes, fills it with random numbers where weights are missing, and
says so at the end: a configuration without sizes is one of 7 billion parameters, whatever lies beside it.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

_LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers", "decoder_layers"}
_MOST_LAYERS = 10_000
_LEAST_BITS = 1
"""Of a stored parameter; no published format takes fewer."""


def check_claimed_size(folder: Path, loader: Any) -> None:
    """Refuse a configuration of more layers or parameters than the weight files could hold.

    Args:
        folder: Of a model in Hugging Face's format.
        loader: The class that will load it.

    Raises:
        ValueError: with both numbers; or the configuration cannot be read.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    if not files:
        return  # of another format, or none: the loader says it
    layers, tensors = max(_layer_counts(config.to_dict()), default=0), sum(map(_tensors, files))
    if layers > tensors:
        raise ValueError(f"its configuration has {layers} layers, and its weights are at most {tensors} tensors")
    with torch.device("meta"):
        model = loader.from_config(config) if hasattr(loader, "from_config") else loader(config)
    claimed = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(path.stat().st_size for path in files)
    if claimed * _LEAST_BITS > 8 * stored:
        raise ValueError(f"its configuration is of {claimed:,} parameters, and its weights are {stored:,} bytes")


def _layer_counts(config: Any) -> list[int]:
    if not isinstance(config, dict):
        return []
    own = [value for key, value in config.items() if key in _LAYERS and type(value) is int]
    return own + [count for value in config.values() for count in _layer_counts(value)]


def _tensors(path: Path) -> int:
    """At most; a pickle does not tell before it is read."""
    if path.suffix != ".safetensors":
        return _MOST_LAYERS
    with safe_open(path, framework="pt") as file:
        return len(file.keys())
