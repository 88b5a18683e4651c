"""Activations that stand in for a store: in memory, shuffled by seed, seekable."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp import Site


@dataclass
class MemorySource:
    """The same promises as ``interp.ActivationStore.batches_of``."""

    data: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.data)

    def at(self, site: Site) -> Tensor:
        """Its activations."""
        return self.data

    def batches_of(
        self, sites: Sequence[Site], batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[dict[Site, Tensor]]:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
        for begin in range(start * batch_size, len(order), batch_size):
            yield {site: self.at(site)[order[begin : begin + batch_size]] for site in sites}


def planted(rows: int, *, d: int = 64, features: int = 128, active: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sums of ``active`` random unit features with coefficients in [0.5, 1.5]; returns the data and the dictionary."""
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.nn.functional.normalize(torch.randn(features, d, generator=generator), dim=-1)
    chosen = torch.rand(rows, features, generator=generator).topk(active, dim=-1).indices
    codes = torch.zeros(rows, features).scatter(-1, chosen, 0.5 + torch.rand(rows, active, generator=generator))
    return codes @ dictionary, dictionary
