"""Sparse autoencoders: define, train, store, evaluate."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saes.activations import BatchTopK as BatchTopK
    from saes.activations import Gated as Gated
    from saes.activations import JumpReLU as JumpReLU
    from saes.activations import Matryoshka as Matryoshka
    from saes.activations import ReLU as ReLU
    from saes.activations import TopAFA as TopAFA
    from saes.activations import TopK as TopK
    from saes.latents import Latents as Latents
    from saes.sae import SAE as SAE
    from saes.training.config import TrainConfig as TrainConfig
    from saes.training.loop import train as train
    from saes.training.loop import train_many as train_many

_VARIANTS = ("BatchTopK", "Gated", "JumpReLU", "Matryoshka", "ReLU", "TopAFA", "TopK")
_HOMES = {
    "SAE": "saes.sae",
    "Latents": "saes.latents",
    "TrainConfig": "saes.training.config",
    "train": "saes.training.loop",
    "train_many": "saes.training.loop",
    **dict.fromkeys(_VARIANTS, "saes.activations"),
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``interp --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'saes' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
