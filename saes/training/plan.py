"""Before a run starts: which places of a store it is about, and what it will take in parameters, memory, passes and
time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache

import torch

from interp.arguments.memory import free_memory
from interp.store.plan import size
from saes.places.stores import HasSites, places_in
from saes.training.config import TrainConfig
from saes.training.optimiser.kinds import KINDS, Kind

_BYTES = 4
"""Weights, gradients and moments are float32."""
_OF_A_STEP = 10
"""How often a step reads or writes every weight: gradient written, its norm, projection, and two moments."""


def with_places(config: TrainConfig, source: HasSites) -> TrainConfig:
    """The config with names of places in ``source`` for its patterns; one of a single site as it is.

    Raises:
        ValueError: a pattern that matches nothing there, with what there is.

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> from saes.training import with_places
        >>> model, patterns = interp.load_model("embedded"), ("blocks.0-1.mlp.hook_in", "blocks.0-1.hook_mlp_out")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> store = interp.cache_activations(model, rows, patterns, "acts")
        >>> reads, writes = ((pattern,) for pattern in patterns)
        >>> config = saes.TrainConfig(kind="clt", reads=reads, writes=writes, out=Path("clt"), k=8, tokens=1_024)
        >>> with_places(config, store).reads
        ('blocks.0.mlp.hook_in', 'blocks.1.mlp.hook_in')
    """
    if config.kind is None:
        return config
    return replace(config, reads=places_in(source, config.reads), writes=places_in(source, config.writes))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of one run."""

    kind: str
    """What kind it is: transcoders, clt, crosscoder, or SAE or transcoder of one site."""
    places: int
    """How many places the dictionary reads."""
    d_sae: int
    """Number of latents of each part."""
    parameters: int
    """How many weights it has, biases counted."""
    optimizer: Kind
    """Which optimiser moves them."""
    directions: int = 0
    """How many numbers SOAP keeps beside the moments: of each matrix, twice the square of its width."""
    tokens: int
    """How many tokens it is trained on."""
    steps: int
    """How many optimiser steps it takes."""
    steps_a_pass: int
    """How many of them a pass over the source takes."""
    available: int
    """How many activations the source has; each pass over it takes them once."""
    chooses_many: int | None = None
    """Of a variant that chooses how many latents are active, often more than there are dimensions: these dimensions."""
    products: float
    """Multiplications and additions of the encoder in all steps; the decoder's, of few latents, are few beside them."""

    @property
    def weight_bytes(self) -> int:
        """Of the weights."""
        return self.parameters * _BYTES

    @property
    def training_bytes(self) -> int:
        """Of weights, gradients and what the optimiser keeps."""
        return (2 + self.optimizer.moments) * self.weight_bytes + self.directions * _BYTES

    def days(self) -> float:
        """At least, on this machine: from the speed of a product and of memory, measured for a moment."""
        return self.products / _products_a_second() / 86_400 + (
            self.steps * self.weight_bytes * _OF_A_STEP / _bytes_a_second() / 86_400
        )

    @property
    def passes(self) -> float:
        """How often each activation is seen."""
        return self.steps / max(1, self.steps_a_pass)

    def check(self, device: torch.device, *, shards: int = 1) -> None:
        """Refuse what does not fit the memory of ``device``, of which a process has one of ``shards`` parts.

        Raises ValueError with the bytes, and what is free.
        """
        free, wanted = free_memory(device), self.training_bytes // shards
        if free is not None and wanted > free:
            raise ValueError(
                f"{self.d_sae:,} latents take {size(wanted)} of memory ({self.parameters // shards:,} weights, with"
                f" gradients and {self.optimizer.title}'s moments), and {device} has {size(free)} free: lower d_sae, or"
                " share the latents between processes (latent_shards)"
            )

    def lines(self) -> list[str]:
        """For the terminal."""
        days = self.days()
        least = str(timedelta(seconds=round(86_400 * days))) if days < 2 else f"{days:.3g} days"
        over = f"{self.kind} over {self.places} places" if self.places > 1 else f"{self.kind}, {self.d_sae:,} latents"
        passes = f"{self.passes:.3g} passes over {self.available:,}" if self.passes > 1 else f"of {self.available:,}"
        chosen = (
            "top-AFA chooses how many latents are active from each activation's norm, often more than there are"
            f" dimensions ({self.chooses_many}; l0_per_dimension in the log): a lower weight of its loss"
            " (--loss-weights.afa 0.008) or an L1 loss (--loss-weights.l1 0.5) makes them fewer"
        )
        kept = f"{self.optimizer.title}'s moments"
        return [
            f"{over}: {self.parameters:,} parameters",
            f"{size(self.weight_bytes)} of weights, {size(self.training_bytes)} with gradients and {kept}",
            f"{self.tokens:,} activations ({passes}) in {self.steps:,} steps; at least {least} on this machine (from"
            " the speed of products and memory; reading activations comes on top)",
            *([] if self.chooses_many is None else [chosen]),
        ]


def plan(config: TrainConfig, source: HasSites) -> Plan:
    """Of a config whose places are names in ``source``: an SAE, a transcoder, or a dictionary over several places.

    A CLT of L layers of width d has d * d_sae * (L + L (L + 1) / 2) weights and a few biases.
    """
    layout = config.layout
    reads, writes = ([source.width(place) for place in places] for places in config.places)
    extras = sum(config.d_sae if extra.per_latent else 1 for extra in config.build_activation().extras.values())
    parameters, products, squares = 0, 0.0, 0
    shapes: list[tuple[int, ...]] = [(reads[0], writes[0], writes[0])]
    if layout is not None:
        shapes = [
            tuple(
                sum(widths[i] for i in chosen)
                for widths, chosen in ((reads, p.reads), (writes, p.own), (writes, p.writes))
            )
            for p in layout.parts
        ]
    for d_in, d_out, d_written in shapes:
        parameters += config.d_sae * (d_in + d_written + 1) + d_out + extras
        parameters += d_in * d_out if config.skip else 0
        squares += d_in**2 + d_written**2 + (d_in**2 if config.skip else 0)
        products += 2.0 * d_in * config.d_sae * config.steps * config.batch_size
    return Plan(
        kind=config.kind or ("SAE" if config.target_site is None else "transcoder"),
        places=len(reads),
        d_sae=config.d_sae,
        parameters=parameters,
        optimizer=KINDS[config.optimizer],
        directions=2 * squares if config.optimizer == "soap" else 0,
        tokens=config.tokens,
        steps=config.steps,
        steps_a_pass=config.steps_a_pass(len(source)),
        available=len(source),
        chooses_many=shapes[0][0] if config.activation == "afa" else None,
        products=products,
    )


@cache
def _products_a_second() -> float:
    left, right = torch.ones(512, 512), torch.ones(512, 2048)
    return 2.0 * 512 * 512 * 2048 / _seconds(lambda: left @ right)


@cache
def _bytes_a_second() -> float:
    from_, to = torch.ones(1 << 24), torch.ones(1 << 24)
    return 2.0 * from_.nbytes / _seconds(lambda: to.copy_(from_))


def _seconds(action: Callable[[], object]) -> float:
    """The least of a few tries."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return max(min(times), 1e-9)
