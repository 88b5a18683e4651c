"""Random transcoder sets for tiny models: every latent active somewhere, none of them good at anything."""

from typing import Any

import torch
from transformers import PreTrainedModel

from saes import ReLU
from saes.places import Dictionary, Layout
from tests.tiny_models import LAYERS, VOCAB, WIDTH, tiny_model

D_SAE, LENGTH = 24, 7


def random_set(
    kind: str = "transcoders",
    *,
    activation: Any = None,
    layers: tuple[int, ...] = tuple(range(LAYERS)),
    read: str = "blocks.{}.mlp.hook_in",
    skip: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Dictionary:
    reads, writes = (tuple(name.format(layer) for layer in layers) for name in (read, "blocks.{}.hook_mlp_out"))
    layout = Layout(kind, reads, writes)
    widths = ((WIDTH,) * len(layers),) * 2
    made = Dictionary(layout, widths, d_sae=D_SAE, activation=activation or ReLU(), skip=skip, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if not name.endswith("threshold"):
                weights.copy_(torch.randn(weights.shape, generator=generator, dtype=torch.float64) * 0.2)
    return made


def prompt(*, seed: int = 1, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def precise(family: str) -> PreTrainedModel:
    return tiny_model(family, dtype=torch.float64)
