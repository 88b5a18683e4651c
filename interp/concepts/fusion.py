"""One vector of all layers: rotations of every layer onto a reference, on inputs that all layers saw."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.terminal.short_repr import short_repr


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The mean of concept vectors in the space of a reference layer, and what it is in each layer's own.

    Example:
        >>> import torch
        >>> from interp.concepts import fused
        >>> states = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> found = fused({0: torch.eye(4)[0], 1: torch.eye(4)[0]}, {0: states, 1: states}, reference=0)
        >>> found.reference, sorted(found.decoded)
        (0, [0, 1])
    """

    vector: Float[Tensor, " d"]
    """The mean, in the space of the reference layer."""
    reference: int
    """Layer in whose space it is, from 0."""
    decoded: dict[int, Float[Tensor, " d"]]
    """Layer -> the fused vector, rotated back."""
    cosine: dict[int, float]
    """Layer -> cosine of that with the layer's own concept vector. Scores of fused vectors vary less between layers by
    construction: without a cosine near 1, and a concept that was held out, that says nothing."""

    __repr__ = short_repr


def fused(
    vectors: Mapping[int, Float[Tensor, " d"]],
    states: Mapping[int, Float[Tensor, "n d"]],
    *,
    reference: int | None = None,
) -> Fused:
    """Rotate every layer onto the reference (orthogonal Procrustes, on centred states), average, and rotate back.

    This stands in the place of the three networks of arXiv 2508.21197, whose loss holds the variance over layers that
    is then reported.

    Args:
        vectors: layer -> concept vector.
        states: layer -> activations of the same inputs in every layer.
        reference: by default the middle layer.

    Raises:
        ValueError: layers that differ, other numbers of inputs, or a reference that is none of them.

    Example:
        >>> import torch
        >>> from interp.concepts import fused
        >>> states = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> turned = states @ torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
        >>> found = fused({0: torch.eye(4)[0], 1: torch.eye(4)[1]}, {0: states, 1: turned})
        >>> round(found.cosine[0], 3)
        1.0
    """
    layers = sorted(vectors)
    middle = (layers[len(layers) // 2] if layers else -1) if reference is None else reference
    if not layers or vectors.keys() != states.keys() or middle not in vectors:
        raise ValueError(
            f"vectors of layers {layers}, states of {sorted(states)}, reference {middle}: give the same layers"
        )
    if len({tuple(states[layer].shape) for layer in layers}) > 1:
        raise ValueError("states of the layers differ in shape: take the same inputs in every layer")
    rotations = {layer: _rotation(states[layer], states[middle]) for layer in layers}
    mean = torch.stack(
        [functional.normalize(vectors[layer].double(), dim=0) @ rotations[layer] for layer in layers]
    ).mean(0)
    vector = functional.normalize(mean, dim=0)
    decoded = {layer: vector @ rotations[layer].T for layer in layers}
    return Fused(
        vector=vector.float(),
        reference=middle,
        decoded={layer: each.float() for layer, each in decoded.items()},
        cosine={
            layer: float(functional.cosine_similarity(each, vectors[layer].double(), dim=0))
            for layer, each in decoded.items()
        },
    )


def _rotation(own: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """The orthogonal R with own R nearest to target."""
    a, b = (each.double() - each.double().mean(0) for each in (own, target))
    left, _, right = torch.linalg.svd(a.T @ b)
    return left @ right
