"""Before a run starts: which places of a store it is about, and what it will take in parameters, memory and time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from saes.places.stores import HasSites, places_in
from saes.training.config import TrainConfig

_BYTES = 4
"""Weights, gradients and moments are float32."""
_OF_A_STEP = 10
"""How often a step reads or writes every weight: gradient written, its norm, projection, and Adam's two moments."""


def with_places(config: TrainConfig, source: HasSites) -> TrainConfig:
    """The config with names of places in ``source`` for its patterns; one of a single site as it is.

    Raises:
        ValueError: a pattern that matches nothing there, with what there is.
    """
    if config.kind is None:
        return config
    return replace(config, reads=places_in(source, config.reads), writes=places_in(source, config.writes))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of one run."""

    kind: str
    """What kind of dictionary is trained."""
    places: int
    """How many places the dictionary reads."""
    parameters: int
    """How many weights it has, biases counted."""
    tokens: int
    """How many tokens it is trained on."""
    steps: int
    """How many optimiser steps it takes."""
    products: float
    """Multiplications and additions of the encoder in all steps; the decoder's, of few latents, are few beside them."""

    @property
    def weight_bytes(self) -> int:
        """Of the weights."""
        return self.parameters * _BYTES

    @property
    def training_bytes(self) -> int:
        """Of weights, gradients and Adam's two moments."""
        return 4 * self.weight_bytes

    def days(self) -> float:
        """At least, on this machine: from the speed of a product and of memory, measured for a moment."""
        return self.products / _products_a_second() / 86_400 + (
            self.steps * self.weight_bytes * _OF_A_STEP / _bytes_a_second() / 86_400
        )

    def lines(self) -> list[str]:
        """For the terminal."""
        days = self.days()
        hours = f"{24 * days:.2g} hours" if days < 2 else f"{days:.3g} days"
        return [
            f"{self.kind} over {self.places} places: {self.parameters:,} parameters",
            f"{_size(self.weight_bytes)} of weights, {_size(self.training_bytes)} with gradients and Adam's moments",
            f"{self.tokens:,} tokens in {self.steps:,} steps; at least {hours} on this machine (an estimate from the"
            " speed of products and memory; reading activations comes on top)",
        ]


def plan(config: TrainConfig, source: HasSites) -> Plan:
    """Of a config whose places are names in ``source``.

    A CLT of L layers of width d has d * d_sae * (L + L (L + 1) / 2) weights and a few biases.
    """
    layout = config.layout
    if layout is None:
        raise ValueError("a plan is of a dictionary over several places (kind); this config is of one site")
    reads, writes = ([source.width(place) for place in places] for places in (layout.reads, layout.writes))
    extras = sum(config.d_sae if extra.per_latent else 1 for extra in config.build_activation().extras.values())
    parameters, products = 0, 0.0
    for part in layout.parts:
        d_in, d_out = sum(reads[i] for i in part.reads), sum(writes[i] for i in part.own)
        parameters += config.d_sae * (d_in + sum(writes[i] for i in part.writes) + 1) + d_out + extras
        parameters += d_in * d_out if config.skip else 0
        products += 2.0 * d_in * config.d_sae * config.steps * config.batch_size
    return Plan(
        kind=layout.kind,
        places=len(layout.reads),
        parameters=parameters,
        tokens=config.tokens,
        steps=config.steps,
        products=products,
    )


def _products_a_second() -> float:
    left, right = torch.ones(512, 512), torch.ones(512, 2048)
    return 2.0 * 512 * 512 * 2048 / _seconds(lambda: left @ right)


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


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
