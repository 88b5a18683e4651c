"""What codes alone say about classes."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from interp import metrics
from interp.arguments.extras import extra
from interp.metrics import Estimate

with extra("sklearn", "probing codes"):
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.neighbors import KNeighborsClassifier


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Accuracies on test codes, ± over test inputs; ``chance`` is the share of the largest class among them.

    Example:
        >>> import torch
        >>> from interp.codes import pack, probe_codes
        >>> y = torch.arange(40) % 2
        >>> codes = pack((y[:, None] * 2.0 - 1).expand(40, 8))  # each class has a code of its own
        >>> found = probe_codes(codes, y, codes, y)
        >>> found.clusters.value, found.neighbours.value, found.linear.value, found.chance
        (1.0, 1.0, 1.0, 0.5)
    """

    clusters: Estimate
    """k-means with as many clusters as classes, each given the class that fits best over all (Hungarian)."""
    neighbours: Estimate
    """Nine nearest training codes by Hamming distance."""
    linear: Estimate
    """Logistic regression, one against one."""
    chance: float
    """Share of the largest class among the test inputs."""


def probe_codes(
    train: UInt8[np.ndarray, "n bytes"],
    train_classes: Int[Tensor, " train_inputs"],
    test: UInt8[np.ndarray, "m bytes"],
    test_classes: Int[Tensor, " test_inputs"],
    *,
    seed: int = 9,
) -> Probes:
    """The three probes of arXiv 2101.05490, fitted on training codes and scored on test codes.

    Raises:
        ValueError: not one class for each code; fewer than two classes, or than nine training codes; a test class that
            training has not.

    Example:
        >>> import torch
        >>> from interp.codes import pack, probe_codes
        >>> y = torch.arange(40) % 2
        >>> x = pack((y[:, None] * 2.0 - 1).expand(40, 8))
        >>> probe_codes(x, y, x, y).linear.value
        1.0
    """
    if len(train) != len(train_classes) or len(test) != len(test_classes) or not len(test):
        raise ValueError(
            f"{len(train)} and {len(test)} codes, {len(train_classes)} and {len(test_classes)} classes: one for each"
        )
    y, y_test = train_classes.cpu().numpy(), test_classes.cpu().numpy()
    kinds = np.unique(y)
    if len(kinds) < 2 or len(y) < 9 or not set(y_test) <= set(kinds):
        raise ValueError(f"{len(y)} training codes of {len(kinds)} classes: give nine or more, of all test classes")
    x, x_test = (np.unpackbits(each, axis=1).astype(np.float64) for each in (train, test))
    means = KMeans(len(kinds), n_init=10, random_state=seed).fit(x)
    counts = np.zeros((len(kinds), len(kinds)))
    np.add.at(counts, (means.labels_, np.searchsorted(kinds, y)), 1)
    clusters, assigned = linear_sum_assignment(-counts)
    names = kinds[assigned[np.argsort(clusters)]]
    neighbours = KNeighborsClassifier(9, metric="hamming").fit(x, y)
    logistic = OneVsOneClassifier(LogisticRegression(max_iter=1000, random_state=seed)).fit(x, y)

    def accuracy(guess: np.ndarray) -> Estimate:
        return metrics.mean(torch.from_numpy(guess == y_test).float())

    return Probes(
        clusters=accuracy(names[means.predict(x_test)]),
        neighbours=accuracy(neighbours.predict(x_test)),
        linear=accuracy(logistic.predict(x_test)),
        chance=float(np.unique(y_test, return_counts=True)[1].max() / len(y_test)),
    )
