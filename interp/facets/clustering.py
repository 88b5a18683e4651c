"""Clusters of the reasons for which a unit fires, as many as stand out from noise of the same covariance."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from interp import metrics
from interp.arguments.extras import extra
from interp.metrics import Estimate
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr

with extra("sklearn", "clustering facets"):
    from sklearn import config_context
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score

MOST = 8
_DIMS = 50
_NULLS = 40
_BOOTSTRAPS = 20
LEAST = 20


@dataclass(frozen=True, kw_only=True)
class Facet:
    """One reason.

    Example:
        >>> from interp import Estimate
        >>> from interp.facets import Facet
        >>> facet = Facet(members=(12, 3, 40), share=Estimate(0.3, 0.1, 10), activation=Estimate(2.5, 0.2, 3))
        >>> facet.members[:2]  # the rows nearest to its centre: what to read first
        (12, 3)
    """

    members: tuple[int, ...]
    """Rows, nearest to the centre first: the first few are its exemplars."""
    share: Estimate
    """Share of all rows that are its members."""
    activation: Estimate
    """Mean of the unit's, ± over members."""

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The reasons found, the largest first.

    Example:
        >>> from interp import Estimate
        >>> from interp.facets import Facet, Facets
        >>> of_one = {"share": Estimate(0.5, 0.08, 40), "activation": Estimate(2.0, 0.1, 20)}
        >>> two = (Facet(members=tuple(range(20)), **of_one), Facet(members=tuple(range(20, 40)), **of_one))
        >>> found = Facets(facets=two, silhouette=0.7, null_silhouette=0.3, stability=Estimate(0.9, 0.02, 20), n=40)
        >>> found.silhouette > found.null_silhouette  # else there would be one
        True
    """

    facets: tuple[Facet, ...]
    """One for each reason, the largest first."""
    silhouette: float
    """Of the best number of clusters above one."""
    null_silhouette: float
    """95 % quantile of the same in Gaussian data of the same covariance; below it there is one facet."""
    stability: Estimate | None
    """Adjusted Rand index of clusters of bootstrap samples with these, ± over samples; None of one facet."""
    n: int
    """How many rows were clustered."""


def facets(
    vectors: Float[Tensor, "n d"],
    activations: Float[Tensor, " m"],
    *,
    direction: Float[Tensor, " e"] | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Facets:
    """Cluster what was there where a unit fired.

    Rows lose their part along ``direction``, are brought to unit length and to 50 principal components. Of k-means with
    ten restarts, the number of clusters from 2 to ``most`` with the best silhouette is taken if that is above the 95 %
    quantile of the best silhouette in Gaussian data of the same covariance; else there is one. The order of rows does
    not matter.

    Args:
        vectors: the residual stream before the unit's layer, at the tokens where it is active.
        activations: of the unit, one a row.
        direction: what the unit reads: without taking it out all rows agree, since they were chosen by it.
        most: clusters at most.
        seed: of k-means, of the null and of the bootstrap.

    Raises:
        ValueError: fewer than 20 rows, not one activation for each, rows that are 0 or not finite, another width, or
            ``most`` below 2.

    Example:
        >>> import torch
        >>> from interp.facets import facets
        >>> x = 0.05 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        >>> x[:25, 0] += 1
        >>> x[25:, 1] += 1
        >>> [len(facet.members) for facet in facets(x, torch.ones(40)).facets]
        [25, 15]
    """
    if len(vectors) != len(activations) or len(vectors) < LEAST or not 2 <= most < len(vectors):
        raise ValueError(
            f"{len(vectors)} vectors, {len(activations)} activations, most={most}: give {LEAST} or more of both, as"
            " many of each, and most=2 or more"
        )
    x = vectors.double().cpu()
    if direction is not None:
        if direction.shape != x.shape[1:] or not float(direction.norm()) > 0:
            raise ValueError(f"direction has shape {list(direction.shape)}; it must be a vector of width {x.shape[1]}")
        unit = direction.double().cpu() / direction.double().cpu().norm()
        x = x - (x @ unit)[:, None] * unit
    if not x.isfinite().all() or not (x.norm(dim=1) > 0).all():
        raise ValueError("a vector is 0 (once its part along the direction is out), or has entries that are not finite")
    order = np.lexsort(x.numpy().T)  # k-means depends on the order of rows; sorted, it depends on none
    points = _reduced(x[torch.from_numpy(order)])
    best, labels = _best(points, most, seed, restarts=10)
    rng = np.random.default_rng(seed)
    covariance = np.cov(x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True), rowvar=False)
    draw = _gaussian((x / x.norm(dim=1, keepdim=True)).mean(0).numpy(), covariance, len(x))
    nulls = [
        _best(_reduced(torch.from_numpy(draw(rng))), most, seed, restarts=3)[0]
        for _ in counted(range(_NULLS), "cluster noise", unit="draws")
    ]
    limit = float(np.quantile(nulls, 0.95))
    stability = None
    if best > limit:
        stability = _stability(points, labels, rng, seed)
    else:
        labels = np.zeros(len(x), dtype=np.int64)
    found = []
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        distance = np.linalg.norm(points[inside] - points[inside].mean(0), axis=1)
        members = order[inside[np.argsort(distance, kind="stable")]]
        share = torch.zeros(len(x))
        share[members.copy()] = 1
        found.append(
            Facet(
                members=tuple(members.tolist()),
                share=metrics.mean(share),
                activation=metrics.mean(activations.float().cpu()[members.copy()]),
            )
        )
    found.sort(key=lambda facet: (-len(facet.members), facet.members))
    return Facets(facets=tuple(found), silhouette=best, null_silhouette=limit, stability=stability, n=len(x))


def _reduced(x: Float[Tensor, "n d"]) -> np.ndarray:
    """Unit length, then principal components."""
    centred = x / x.norm(dim=1, keepdim=True)
    centred = centred - centred.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = min(_DIMS, len(values))
    return (left[:, :kept] * values[:kept]).numpy()


def _gaussian(mean: np.ndarray, covariance: np.ndarray, n: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Draws n rows; what is the same of every draw is done once."""
    values, vectors = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(values, 0))
    return lambda rng: mean + (rng.standard_normal((n, len(values))) * deviations) @ vectors.T


def _silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Mean over points of (b - a) / max(a, b), a the mean distance to the others of its cluster and b that to the
    nearest other cluster; 0 of a point alone (Rousseeuw 1987)."""
    inside = labels[:, None] == np.unique(labels)
    sums, counts = distances @ inside, inside.sum(0)
    own = (sums * inside).sum(1) / np.maximum(counts @ inside.T - 1, 1)
    other = np.where(inside, np.inf, sums / counts).min(1)
    larger = np.maximum(own, other)
    alone = (counts @ inside.T == 1) | (larger == 0)
    return float(np.where(alone, 0.0, (other - own) / np.where(alone, 1.0, larger)).mean())


def _best(points: np.ndarray, most: int, seed: int, *, restarts: int) -> tuple[float, np.ndarray]:
    """The best silhouette over numbers of clusters, and those clusters."""
    best, chosen = -math.inf, np.zeros(len(points), dtype=np.int64)
    distances = squareform(pdist(points))
    for k in range(2, most + 1):
        labels = _clustered(points, k, seed, restarts)
        if len(np.unique(labels)) < 2:
            continue
        score = _silhouette(distances, labels)
        if score > best:
            best, chosen = score, labels
    return best, chosen


def _clustered(points: np.ndarray, k: int, seed: int, restarts: int) -> np.ndarray:
    # What is checked of points and options at every call takes as long as clustering so few points.
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        labels: np.ndarray = KMeans(k, n_init=restarts, random_state=seed).fit_predict(points)
    return labels


def _stability(points: np.ndarray, labels: np.ndarray, rng: np.random.Generator, seed: int) -> Estimate:
    k = len(np.unique(labels))
    scores = []
    for _ in counted(range(_BOOTSTRAPS), "cluster again", unit="draws"):
        drawn = rng.integers(len(points), size=len(points))
        scores.append(adjusted_rand_score(labels[drawn], _clustered(points[drawn], k, seed, 3)))
    return metrics.mean(torch.tensor(scores))
