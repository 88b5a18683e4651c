"""Linear probes: which latents a question ranks first, and how often a logistic regression answers it rightly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp import metrics
from interp.arguments.extras import extra
from interp.metrics import Estimate

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties (scikit-learn's C) that a probe of many inputs chooses from."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """``weights @ x + bias > 0`` says yes; in the inputs' own unit."""

    weights: np.ndarray
    """[inputs] weight of each input."""
    bias: float
    """What is added to the weighted sum."""

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Of each row, [n]: above zero where the answer is yes."""
        return x @ self.weights + self.bias


def fit(x: np.ndarray, y: np.ndarray, *, strength: float = 1.0, keep_directions: bool = False) -> Probe:
    """Logistic regression with an L2 penalty on inputs of deviation 1, so that their unit does not matter.

    ``keep_directions``: all inputs are divided by one number, the root of their mean variance. Then the penalty favours
    no direction, and the weights are one; with a divisor each, a dimension that hardly varies would get a large weight.
    """
    with extra("sklearn", "a probe"):
        from sklearn.linear_model import LogisticRegression
    mean, deviation = x.mean(0), x.std(0)
    if keep_directions:
        deviation = np.full_like(deviation, np.sqrt((deviation**2).mean()))
    # An input that never varies says nothing.
    deviation = np.where(deviation > 1e-12 * (1 + np.abs(mean)), deviation, np.inf)
    found = LogisticRegression(C=strength, max_iter=2000).fit((x - mean) / deviation, y)
    weights = found.coef_[0] / deviation
    return Probe(weights=weights, bias=float(found.intercept_[0] - mean @ weights))


def fit_dense(x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> Probe:
    """:func:`fit` that keeps directions, with the penalty that answers best on a third of the training groups, held out
    for that alone."""
    best, strength = -1.0, STRENGTHS[-1]
    inner = inner_split(y, groups, seed=seed)
    if inner is not None:
        for each in STRENGTHS:
            probe = fit(x[~inner], y[~inner], strength=each, keep_directions=True)
            right = float(((probe.scores(x[inner]) > 0) == y[inner]).mean())
            if right > best:
                best, strength = right, each
    return fit(x, y, strength=strength, keep_directions=True)


def inner_split(y: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray | None:
    """A third of the groups of each answer; None where one has fewer than three groups."""
    generator, out = np.random.default_rng(seed), []
    for answer in (False, True):
        names = np.unique(groups[y == answer])
        if len(names) < 3:
            return None
        out.append(generator.permutation(names)[: len(names) // 3])
    mask = np.isin(groups, np.concatenate(out))
    return mask if len(np.unique(y[mask])) == len(np.unique(y[~mask])) == 2 else None


def by_mean_difference(x: Any, y: np.ndarray, *, rising: bool = False) -> np.ndarray:
    """Numbers of the inputs, the one whose means for yes and no differ most first; ``x`` may be sparse. With ``rising``
    only those that are larger for yes.

    The ranking of Gurnee et al. (2023, arXiv 2305.01610) that SAEBench takes: differences in the inputs' own unit. Of
    equal ones the first.

    Example:
        >>> import numpy as np
        >>> from saes.suites.probes import by_mean_difference
        >>> x = np.array([[0.0, 1.0, 5.0], [0.0, 3.0, 5.0]])
        >>> by_mean_difference(x, np.array([False, True]))[0]
        np.int64(1)
    """
    difference = np.asarray(x[y].mean(0)).ravel() - np.asarray(x[~y].mean(0)).ravel()
    order = np.argsort(-(difference if rising else np.abs(difference)), kind="stable")
    return order[difference[order] > 0] if rising else order


def f1(says: np.ndarray, y: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN), 0 where nothing is said and nothing holds."""
    return float(2 * (says & y).sum() / max(1, says.sum() + y.sum()))


def share(right: np.ndarray, groups: np.ndarray) -> Estimate:
    """Of what holds, ± over groups, which are no documents and so give way to nothing where they are few."""
    values = torch.from_numpy(np.asarray(right)).double()
    units = torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))
    return metrics.ratio(values, torch.ones_like(values), groups=units, blocks=False)
