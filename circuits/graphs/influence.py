"""Influence, pruning and scores of a graph: as circuit-tracer has them, so that figures can be compared.

With ``N`` the absolute adjacency (targets by sources) whose rows sum to 1, and ``w`` the targets' weights, the
influence of nodes is ``w N + w N² + ..``. The graph has no circles, so the sum ends. Matrices are sparse.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

_SMALLEST_SUM = 1e-10


def normalised(adjacency: sparse.csr_array) -> sparse.csr_array:
    """Absolute values, each row divided by its sum (rows of nothing stay)."""
    sizes = abs(adjacency).astype(np.float64)
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(sizes.sum(1), _SMALLEST_SUM)) @ sizes)


def influence_of(shares: sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    """``w N + w N² + ..`` for rows that sum to 1.

    Raises:
        ValueError: the graph has a circle.
    """
    step = shares.T @ weights
    total = step.copy()
    for _ in range(shares.shape[0]):
        if not step.any():
            return total
        step = shares.T @ step
        total += step
    raise ValueError("the graph has a circle: some node has an effect on itself, and influence has no end")


@dataclass(frozen=True, kw_only=True)
class GraphScores:
    """How much of a graph runs through latents and not through errors; 1 is all."""

    replacement: float
    """Influence of tokens over that of tokens and errors."""
    completeness: float
    """Share of what enters nodes that is no error, weighted by the nodes' influence."""
    replacement_with_linear: float
    """The same where linear errors count as explained; equal to ``replacement`` without a split."""
    completeness_with_linear: float
    """The same of completeness: linear errors count as explained."""


def graph_scores(
    adjacency: sparse.csr_array, weights: np.ndarray, *, tokens: np.ndarray, errors: np.ndarray, linear: np.ndarray
) -> GraphScores:
    """Scores by circuit-tracer's formulas; the three masks say which nodes are of that kind.

    Tokens and errors, which nothing enters, count there as completely explained, weighted by their influence.
    """
    shares = normalised(adjacency)
    influence = influence_of(shares, weights)
    output = influence + weights
    found = {}
    for name, unexplained in (("", errors | linear), ("_with_linear", errors)):
        of_tokens, of_errors = influence[tokens].sum(), influence[unexplained].sum()
        explained = 1 - shares @ unexplained.astype(np.float64)
        found[f"replacement{name}"] = float(of_tokens / (of_tokens + of_errors)) if of_tokens + of_errors else np.nan
        found[f"completeness{name}"] = float((explained * output).sum() / output.sum())
    return GraphScores(**found)


def cumulative(influence: np.ndarray) -> np.ndarray:
    """Of each node the share of all influence that it and those above it hold: small for the most influential."""
    order = np.argsort(-influence, kind="stable")
    shares = np.empty_like(influence)
    shares[order] = influence[order].cumsum() / influence.sum() if influence.sum() else 1.0
    return shares


def least_kept(scores: np.ndarray, share: float) -> float:
    """The smallest of the fewest scores that hold ``share`` of their sum."""
    ranked = -np.sort(-scores)
    if not len(ranked) or not (total := ranked.sum()):
        return 0.0
    return float(ranked[min(int(np.searchsorted(ranked.cumsum() / total, share)), len(ranked) - 1)])


def pruned(
    adjacency: sparse.csr_array,
    weights: np.ndarray,
    *,
    nodes: float,
    edges: float,
    always: np.ndarray,
    latents: np.ndarray,
) -> tuple[np.ndarray, sparse.csr_array]:
    """Which nodes stay, and the edges between them.

    Args:
        adjacency: Targets by sources.
        weights: Of targets, 0 for other nodes.
        nodes: The fewest nodes stay that hold this share of all influence ...
        edges: ... then the fewest edges that hold this share of ``N[t, s] * (influence + weight)(t)``.
        always: Nodes that stay anyway (tokens and targets).
        latents: Nodes that go without an edge that enters them; they and errors go without one that leaves them.

    Raises:
        ValueError: shares that are none.
    """
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it is a share of influence, from 0 to 1")
    influence = influence_of(normalised(adjacency), weights)
    stay = (influence >= least_kept(influence, nodes)) | always
    kept = _between(adjacency, stay)
    shares = normalised(kept)
    scores = sparse.csr_array(sparse.diags_array(influence_of(shares, weights) + weights) @ shares)
    strong = scores.data >= max(least_kept(scores.data, edges), np.finfo(np.float64).tiny)
    rows = np.repeat(np.arange(kept.shape[0]), np.diff(scores.indptr))[strong]
    columns = scores.indices[strong]
    while True:
        inside = stay[rows] & stay[columns]
        rows, columns = rows[inside], columns[inside]
        leaving, entered = np.zeros_like(stay), np.zeros_like(stay)
        leaving[columns], entered[rows] = True, True
        fewer = stay & (always | (leaving & (entered | ~latents)))
        if (fewer == stay).all():
            break
        stay = fewer
    values = np.asarray(adjacency[rows, columns]).reshape(-1) if len(rows) else np.empty(0, adjacency.dtype)
    return stay, sparse.csr_array((values, (rows, columns)), shape=adjacency.shape)


def _between(adjacency: sparse.csr_array, stay: np.ndarray) -> sparse.csr_array:
    mask = sparse.diags_array(stay.astype(adjacency.dtype))
    found = sparse.csr_array(mask @ adjacency @ mask)
    found.eliminate_zeros()
    return found
