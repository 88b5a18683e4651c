"""Influence, pruning and scores against closed forms written out by hand, and dense sums over all paths."""

import numpy as np
import pytest
import torch
from scipy import sparse

from circuits.graphs.influence import cumulative, graph_scores, influence_of, least_kept, normalised, pruned
from circuits.graphs.linear.rows import Rows


def csr(rows: list[list[float]]) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, dtype=np.float64))


# Nodes: latents a, b; an error e; a token x; a target t. Rows are targets.
#   a <- x 3, e 1;   b <- a 2, e -2;   t <- a 1, b -3, x 4
SMALL = csr(
    [
        [0, 0, 1, 3, 0],
        [2, 0, -2, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, -3, 0, 4, 0],
    ]
)
WEIGHTS = np.array([0, 0, 0, 0, 0.5])
A, B, E, X, T = range(5)


def test_influence_of_a_graph_by_hand() -> None:
    """t: 1/8 a, 3/8 b, 4/8 x. b: half a, half e. a: 1/4 e, 3/4 x."""
    influence = influence_of(normalised(SMALL), WEIGHTS)
    b = 0.5 * 3 / 8
    a = 0.5 * 1 / 8 + b / 2
    np.testing.assert_allclose(influence, [a, b, b / 2 + a / 4, 0.5 * 4 / 8 + a * 3 / 4, 0], rtol=1e-12)


def test_scores_of_a_graph_by_hand() -> None:
    mask = np.zeros(5, dtype=bool)
    tokens, errors = mask.copy(), mask.copy()
    tokens[X], errors[E] = True, True
    scores = graph_scores(SMALL, WEIGHTS, tokens=tokens, errors=errors, linear=mask)
    b = 0.5 * 3 / 8
    a = 0.5 * 1 / 8 + b / 2
    e, x = b / 2 + a / 4, 0.25 + a * 3 / 4
    assert scores.replacement == pytest.approx(x / (x + e))
    # Nothing enters e and x, of which everything counts as explained, as in circuit-tracer.
    explained = a * 3 / 4 + b / 2 + e + x + 0.5
    assert scores.completeness == pytest.approx(explained / (a + b + e + x + 0.5))
    assert scores.completeness_with_linear == scores.completeness
    as_linear = graph_scores(SMALL, WEIGHTS, tokens=tokens, errors=mask, linear=errors)
    assert as_linear.completeness == pytest.approx(scores.completeness)
    assert (as_linear.completeness_with_linear, as_linear.replacement_with_linear) == (1.0, 1.0)


def test_thresholds_hold_the_share_asked_for() -> None:
    scores = np.array([0.1, 0.4, 0.2, 0.3])
    assert least_kept(scores, 0.4) == 0.4
    assert least_kept(scores, 0.41) == 0.3
    assert least_kept(scores, 0.0) == 0.4
    assert least_kept(scores, 1.0) == 0.1
    np.testing.assert_allclose(cumulative(scores), [1.0, 0.4, 0.9, 0.7])


def random_graph(seed: int, *, latents: int = 14, errors: int = 6, tokens: int = 4, targets: int = 2) -> tuple:
    """A dense one without circles, in the order of an attribution graph."""
    generator = np.random.default_rng(seed)
    n = latents + errors + tokens + targets
    adjacency = np.zeros((n, n))
    for t in range(latents):
        adjacency[t, :t] = generator.normal(size=t)
        adjacency[t, latents : n - targets] = generator.normal(size=errors + tokens)
    adjacency[n - targets :, : n - targets] = generator.normal(size=(targets, n - targets))
    adjacency *= generator.random((n, n)) < 0.4
    weights = np.zeros(n)
    weights[n - targets :] = [0.7, 0.2]
    kinds = np.repeat(np.arange(4), [latents, errors, tokens, targets])
    return adjacency, weights, kinds


def dense_prune(adjacency: np.ndarray, weights: np.ndarray, kinds: np.ndarray, nodes: float, edges: float) -> tuple:
    """By inverse matrices and loops over single nodes."""

    def shares(matrix: np.ndarray) -> np.ndarray:
        sums = np.abs(matrix).sum(1, keepdims=True)
        return np.divide(np.abs(matrix), sums, out=np.zeros_like(matrix), where=sums > 0)

    def influence(matrix: np.ndarray) -> np.ndarray:
        eye = np.eye(len(matrix))
        return weights @ (np.linalg.inv(eye - shares(matrix)) - eye)

    def fewest(values: np.ndarray, share: float) -> np.ndarray:
        """Mask of the largest that together reach the share."""
        mask, total = np.zeros(values.shape, dtype=bool), 0.0
        for i in np.argsort(-values.ravel(), kind="stable"):
            mask.ravel()[i] = True
            total += values.ravel()[i] / values.sum()
            if total >= share - 1e-12:
                return mask
        return mask

    stay = fewest(influence(adjacency), nodes) | (kinds >= 2)
    kept = adjacency * stay[:, None] * stay
    left = fewest(shares(kept) * (influence(kept) + weights)[:, None], edges)
    changed = True
    while changed:
        changed = False
        for node in range(len(kinds)):
            enters = any(left[node, s] and stay[s] for s in range(len(kinds)))
            leaves = any(left[t, node] and stay[t] for t in range(len(kinds)))
            if stay[node] and kinds[node] < 2 and not (leaves and (enters or kinds[node] == 1)):
                stay[node], changed = False, True
    return stay, left * stay[:, None] * stay * (adjacency != 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("nodes", "edges"), [(0.8, 0.98), (0.5, 0.7), (1.0, 1.0)])
def test_pruning_of_random_graphs(seed: int, nodes: float, edges: float) -> None:
    adjacency, weights, kinds = random_graph(seed)
    stay, kept = pruned(
        sparse.csr_array(adjacency), weights, nodes=nodes, edges=edges, always=kinds >= 2, latents=kinds == 0
    )
    expected_stay, expected = dense_prune(adjacency, weights, kinds, nodes, edges)
    np.testing.assert_array_equal(stay, expected_stay)
    np.testing.assert_allclose(kept.toarray(), adjacency * expected, rtol=1e-12)
    if nodes == 0.5:
        assert expected_stay.sum() < len(kinds)
        assert expected.sum() < (adjacency != 0).sum()


def test_bad_shares_and_circles_are_refused() -> None:
    mask = np.zeros(5, dtype=bool)
    with pytest.raises(ValueError, match=r"nodes is 1\.5"):
        pruned(SMALL, WEIGHTS, nodes=1.5, edges=1.0, always=mask, latents=mask)
    with pytest.raises(ValueError, match="has a circle"):
        influence_of(csr([[0, 1], [1, 0]]), np.array([1.0, 0.0]))


def test_rows_give_the_influence_of_all_columns() -> None:
    adjacency, weights, kinds = random_graph(3)
    columns = adjacency[:, kinds < 3]
    order = [*np.flatnonzero(kinds == 3), *np.flatnonzero(kinds == 0)[::-1]]
    rows = Rows(columns.shape[1], len(order))
    for t in order:
        rows.add(torch.tensor(columns[[t]]))
    column = np.array([-1 if kinds[t] == 3 else t for t in order])
    layer = np.array([99 if kinds[t] == 3 else t for t in order])
    found = rows.influence(weights[order], column, layer)
    np.testing.assert_allclose(found, influence_of(normalised(sparse.csr_array(adjacency)), weights)[kinds < 3])


def test_rows_without_room_keep_their_largest_entries() -> None:
    effects = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    rows = Rows(1000, 3, memory=1)
    rows.add(effects)
    assert rows.width == 256
    kept = rows.matrix().toarray()
    for row, its in enumerate(effects):
        largest = its.abs().sort(descending=True).values
        assert (kept[row] != 0).sum() == 256
        assert np.abs(kept[row])[kept[row] != 0].min() == pytest.approx(float(largest[255]))
        assert rows.dropped[row] == pytest.approx(float(largest[256:].sum() / largest.sum()), rel=1e-5)
        assert rows.totals[row] == pytest.approx(float(its.double().sum()), rel=1e-5)
