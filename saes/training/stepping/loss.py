"""The weighted terms of the loss, from one forward pass."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from saes.losses import TERMS, Pass
from saes.places.losses import Forward


def loss_terms(
    forward: Pass | Forward, weights: Mapping[str, float], *, sparsity: Mapping[str, Sequence[float]]
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss times their ``weights``; those of sparsity are multiplied with ``sparsity``, which has a
    factor a part."""
    terms = {}
    for name, weight in weights.items():
        if name == "aux" and not forward.n_dead:
            continue
        factors = sparsity.get(name)
        if isinstance(forward, Pass):
            terms[name] = weight * (factors[0] if factors else 1.0) * TERMS[name](forward)
        else:
            terms[name] = weight * forward.term(name, factors)
    return terms
