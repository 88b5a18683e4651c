"""Activations made of features that are known: the test bed of every other evaluation in this folder.

Each row is a sum of feature directions times coefficients. Features fire at Zipf's rates, correlate through a Gaussian
copula, and form a forest: a child fires only where its parent does, one child of a parent at a time. That is the
recipe of SynthSAEBench (Chanin and Garriga-Alonso 2026, arXiv 2602.14687) at any size, written here from its text.
Two dictionaries come with it: the true one, and one that absorbs its parents into their children, by as much as asked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp.terminal.short_repr import short_repr
from saes.activations import JumpReLU
from saes.sae import SAE

_ORTHONORMAL = 1e-4
"""Largest dot product of two directions that count as orthogonal."""


@dataclass(frozen=True, kw_only=True)
class PlantedRows:
    """Activations and what they are made of."""

    x: Float[Tensor, "n d"]
    """One activation a row, in the features' unit."""
    coefficients: Float[Tensor, "n features"]
    """How strongly each feature is in each row, 0 where it does not fire."""

    @property
    def fires(self) -> Bool[Tensor, "n features"]:
        """Which features each row has."""
        return self.coefficients > 0


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Features, and how rows are drawn from them; :func:`plant` makes one.

    Example:
        >>> from saes.suites import plant
        >>> planted = plant(roots=8, children={0: 2}, d=16, seed=0)
        >>> rows = planted.rows(100, seed=1)
        >>> rows.x.shape, bool((rows.fires[:, 8] <= rows.fires[:, 0]).all())
        (torch.Size([100, 16]), True)
    """

    directions: Float[Tensor, "features d"]
    """Unit vector of each feature; parents stand before their children."""
    parents: Int[Tensor, " features"]
    """Number of each feature's parent, -1 of a root."""
    rates: Float[Tensor, " features"]
    """Share of rows in which each feature fires, its parent's share included."""
    factors: Float[Tensor, "features rank"]
    """Loadings of the copula: features with alike rows fire together. Rows of children are not read."""
    low: float
    """Smallest coefficient of a feature that fires."""
    high: float
    """Largest coefficient of a feature that fires."""
    noise: float
    """Standard deviation of what is added to each dimension."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        parents, count = self.parents, len(self.directions)
        if not 0 < self.low <= self.high:
            raise ValueError(f"coefficients from {self.low} to {self.high}: they must be positive, the smaller first")
        if ((parents >= torch.arange(count)) | (parents < -1)).any():
            raise ValueError("a parent stands before its children: parents[i] must be below i, or -1 for a root")
        for parent in parents[parents >= 0].unique().tolist():
            share = float(self.rates[parents == parent].sum() / self.rates[parent])
            if share > 1 + 1e-6:
                raise ValueError(
                    f"the children of feature {parent} fire {share:.3g} times as often as it does, and one at a time:"
                    " lower their rates"
                )

    @property
    def d(self) -> int:
        """Width of an activation."""
        return self.directions.shape[1]

    def children(self, parent: int) -> list[int]:
        """Numbers of a feature's children."""
        return (self.parents == parent).nonzero().flatten().tolist()

    def rows(self, n: int, *, seed: int) -> PlantedRows:
        """``n`` independent rows."""
        generator = torch.Generator().manual_seed(seed)
        count, rank = self.factors.shape
        common = torch.randn(n, rank, generator=generator, dtype=torch.float64)
        own = (1 - self.factors.double().square().sum(1)).sqrt()
        normal = common @ self.factors.double().T + own * torch.randn(n, count, generator=generator).double()
        fires = torch.special.ndtr(normal) < self.rates.double()
        draws = torch.rand(n, count, generator=generator, dtype=torch.float64)
        # One draw of a parent chooses among its children; they stand behind it, so its own firing is settled by then.
        for parent in range(count):
            begin = torch.zeros((), dtype=torch.float64)
            for child in self.children(parent):
                end = begin + self.rates[child].double() / self.rates[parent].double()
                fires[:, child] = fires[:, parent] & (draws[:, parent] >= begin) & (draws[:, parent] < end)
                begin = end
        sizes = self.low + (self.high - self.low) * torch.rand(n, count, generator=generator)
        coefficients = sizes * fires
        x = coefficients @ self.directions + self.noise * torch.randn(n, self.d, generator=generator)
        return PlantedRows(x=x, coefficients=coefficients)

    def true_dictionary(self) -> SAE:
        """An SAE whose latents are the features. Where directions are orthonormal its latents are the coefficients, up
        to noise; in superposition its encoder sees what other features write along its direction."""
        return self.absorbing_dictionary({})

    def absorbing_dictionary(self, strengths: Mapping[int, float]) -> SAE:
        """The true dictionary, but ``strengths[child]`` of its parent goes into each named child: where the child fires
        with coefficient c, the parent's latent is lower by ``strength * c``, and the child writes that much of the
        parent's direction instead. With equal coefficients (``low = high``) the reconstruction stays exact, and so
        the absorbed share of the parent is the strength.

        Raises ValueError for features without a parent, strengths outside 0 to 1, and directions in superposition,
        where a linear encoder cannot do it exactly.
        """
        count = len(self.directions)
        if strengths and not self.orthonormal:
            raise ValueError(f"{count} directions in {self.d} dimensions are not orthonormal; plant no more than d")
        W_enc, W_dec = self.directions.T.clone(), self.directions.clone()
        threshold = torch.full((count,), self.low / 4)
        for child, strength in strengths.items():
            if not 0 <= child < count or self.parents[child] < 0 or not 0 <= strength <= 1:
                raise ValueError(f"feature {child} with strength {strength}: name a child, and a strength from 0 to 1")
            parent = int(self.parents[child])
            W_enc[:, parent] -= strength * self.directions[child]
            W_dec[child] += strength * self.directions[parent]
            norm = math.sqrt(1 + strength**2)  # rows stay unit, so that latents count in the activation's unit
            W_enc[:, child] *= norm
            W_dec[child] /= norm
            threshold[child] *= norm
        sae = SAE(self.d, count, JumpReLU(), subtract_b_dec=False)
        with torch.no_grad():
            for name, value in (("W_enc", W_enc), ("W_dec", W_dec), ("threshold", threshold)):
                sae.get_parameter(name).copy_(value)
        return sae

    @property
    def orthonormal(self) -> bool:
        """Whether no two directions overlap."""
        gram = self.directions @ self.directions.T
        return bool((gram - torch.eye(len(gram))).abs().max() < _ORTHONORMAL)


def plant(
    *,
    roots: int,
    d: int,
    children: Mapping[int, int] | None = None,
    seed: int,
    exponent: float = 0.5,
    top_rate: float = 0.4,
    child_share: float = 0.8,
    correlation: float = 0.0,
    rank: int = 4,
    low: float = 1.0,
    high: float = 1.0,
    noise: float = 0.01,
) -> Planted:
    """Features with a hierarchy, correlations and Zipf's rates.

    Args:
        roots: How many fire on their own; the i-th at ``top_rate * (i + 1) ** -exponent``.
        d: Width of an activation. Directions are orthonormal where all features fit, random otherwise (superposition).
        children: root -> how many children it has; they are numbered behind the roots, in the order given.
        seed: Of directions and loadings.
        exponent: Zipf's, over the roots.
        top_rate: Share of rows with the most frequent feature.
        child_share: Share of a parent's rows in which one of its children fires, the same for each of them.
        correlation: Share of a root's variance in the copula that it has in common with others, from 0 to below 1.
        rank: How many common factors there are.
        low: Smallest coefficient, positive.
        high: Largest coefficient; between the two, coefficients are uniform.
        noise: Standard deviation added to each dimension.

    Raises:
        ValueError: numbers out of range, or a parent that is no root.

    Example:
        >>> from saes.suites import plant
        >>> plant(roots=4, children={1: 3}, d=8, seed=0).parents
        tensor([-1, -1, -1, -1,  1,  1,  1])
    """
    children = dict(children or {})
    checks = {
        f"roots = {roots}, d = {d}, rank = {rank}: each must be 1 or more": min(roots, d, rank) >= 1,
        f"top_rate = {top_rate}: it must be above 0 and at most 1": 0 < top_rate <= 1,
        f"child_share = {child_share}: it must be above 0 and at most 1": 0 < child_share <= 1,
        f"correlation = {correlation}: it must be from 0 to below 1": 0 <= correlation < 1,
        f"children of {sorted(children)}: parents are roots, 0 to {roots - 1}, with 1 child or more": all(
            0 <= parent < roots and number >= 1 for parent, number in children.items()
        ),
    }
    if wrong := [text for text, holds in checks.items() if not holds]:
        raise ValueError(wrong[0])
    generator = torch.Generator().manual_seed(seed)
    parents = torch.tensor([-1] * roots + [parent for parent, number in children.items() for _ in range(number)])
    rates = top_rate * torch.arange(1, roots + 1).float() ** -exponent
    shares = [rates[parent] * child_share / number for parent, number in children.items() for _ in range(number)]
    directions = torch.randn(len(parents), d, generator=generator)
    directions = torch.linalg.qr(directions.T)[0].T if len(parents) <= d else functional.normalize(directions, dim=-1)
    factors = functional.normalize(torch.randn(len(parents), rank, generator=generator), dim=-1)
    return Planted(
        directions=directions,
        parents=parents,
        rates=torch.cat([rates, torch.tensor(shares)]),
        factors=math.sqrt(correlation) * factors,
        low=low,
        high=high,
        noise=noise,
    )
