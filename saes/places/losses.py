"""Loss terms of a dictionary over places.

Most terms are about one part's latents and are ``saes.losses`` as they are, added up over the parts. Three are about
what parts write together: the reconstruction (and, of the gated, that of the gates), and AuxK, whose dead latents
rebuild the error at every place that their part writes. Each place's error counts once, in the term of the part that it
is the own place of, as a mean over rows and dimensions; so the sum over a transcoder set's parts is the sum of the
losses that its transcoders would have alone, and a crosscoder's loss is that of an SAE of its places side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.latents import Latents
from saes.losses import TERMS, Pass, aux
from saes.places.dictionary import Dictionary
from saes.places.layout import PartPlaces


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One forward pass of a dictionary, which every term reads."""

    dictionary: Dictionary
    """The dictionary that was run on the batch."""
    xs: tuple[Float[Tensor, "n _"], ...]
    """At every place read."""
    targets: tuple[Float[Tensor, "n _"], ...]
    """What is to be reconstructed at every place written."""
    x_hats: tuple[Float[Tensor, "n _"], ...]
    """What the dictionary reconstructs at every place written."""
    passes: tuple[Pass, ...]
    """Of every part, whose target and x_hat are those at its own places."""

    @property
    def n_dead(self) -> int:
        """Of all parts, on all processes."""
        return sum(p.n_dead for p in self.passes)

    @property
    def latents(self) -> tuple[Latents, ...]:
        """Of every part."""
        return tuple(p.latents for p in self.passes)

    def term(self, name: str, factors: Sequence[float] | None = None) -> Float[Tensor, ""]:
        """The unweighted term of that name in ``saes.losses.TERMS``; what every part has of it, times its factor, where
        there are ``factors``: not of the terms that parts have together."""
        of_all = _WRITTEN_TOGETHER.get(name)
        if of_all is not None:
            return of_all(self)
        return _total(
            [TERMS[name](p) * f for p, f in zip(self.passes, factors or [1.0] * len(self.passes), strict=True)]
        )

    def side_by_side(self, values: Sequence[Tensor], places: range) -> Float[Tensor, "n _"]:
        """Some of the places' values, one behind another."""
        return values[places[0]] if len(places) == 1 else torch.cat([values[i] for i in places], dim=-1)


def run(
    dictionary: Dictionary,
    xs: Sequence[Float[Tensor, "n _"]],
    targets: Sequence[Float[Tensor, "n _"]],
    dead: Bool[Tensor, "parts d_sae"],
) -> Forward:
    """The forward pass of a training step."""
    latents = dictionary.encode(xs)
    x_hats = dictionary.decode(latents, xs)
    forward = Forward(dictionary=dictionary, xs=tuple(xs), targets=tuple(targets), x_hats=tuple(x_hats), passes=())
    passes = [
        Pass(
            sae=part,
            x=dictionary.part_input(places, xs),
            target=forward.side_by_side(targets, places.own),
            latents=its,
            x_hat=forward.side_by_side(x_hats, places.own),
            dead=its_dead,
            n_dead=int(dictionary.group.over_latents(its_dead.sum())),
        )
        for (part, places), its, its_dead in zip(dictionary.placed(), latents, dead, strict=True)
    ]
    return replace(forward, passes=tuple(passes))


def _mse(forward: Forward) -> Float[Tensor, ""]:
    """Mean over the prefixes that a Matryoshka dictionary reconstructs from, of every part alike."""
    dictionary, group = forward.dictionary, forward.dictionary.group
    sizes = dictionary.activation.prefixes(dictionary.d_sae * group.latent_shards)[:-1]
    first = group.first_latent(dictionary.d_sae)
    shorter = [dictionary.decode([its.below(size - first) for its in forward.latents], forward.xs) for size in sizes]
    errors = [_squared_error(forward, x_hats) for x_hats in (*shorter, forward.x_hats)]
    return _total(errors) / len(errors)


def _gate_mse(forward: Forward) -> Float[Tensor, ""]:
    """The rectified gates of all parts together reconstruct too, through decoders that take no gradient from it."""
    gates = []
    for its in forward.latents:
        assert its.pre is not None
        gates.append(Latents(its.pre, its.indices, its.d_sae))
    return _squared_error(forward, forward.dictionary.decode(gates, forward.xs, frozen=True))


def _aux(forward: Forward) -> Float[Tensor, ""]:
    """AuxK of every part, on the error at all places that it writes."""
    its = [aux(_wide(forward, p, places)) for p, places in _placed(forward) if p.n_dead]
    return _total(its) if its else forward.x_hats[0].new_zeros(())


def _wide(forward: Forward, p: Pass, places: PartPlaces) -> Pass:
    target, x_hat = (forward.side_by_side(values, places.writes) for values in (forward.targets, forward.x_hats))
    return replace(p, target=target, x_hat=x_hat)


def _placed(forward: Forward) -> list[tuple[Pass, PartPlaces]]:
    return list(zip(forward.passes, forward.dictionary.layout.parts, strict=True))


def _squared_error(forward: Forward, x_hats: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Sum over the parts of the mean squared error at their own places."""
    errors = []
    for places in forward.dictionary.layout.parts:
        target, x_hat = (forward.side_by_side(values, places.own) for values in (forward.targets, x_hats))
        errors.append((target - x_hat).square().mean())
    return _total(errors)


def _total(terms: Sequence[Tensor]) -> Float[Tensor, ""]:
    return sum(terms[1:], terms[0])


_WRITTEN_TOGETHER: dict[str, Callable[[Forward], Float[Tensor, ""]]] = {
    "mse": _mse,
    "gate_mse": _gate_mse,
    "aux": _aux,
}
