"""One concept vector from two sets of activations, and what a target does along it."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.arguments.extras import extra
from interp.metrics import Estimate
from interp.terminal.short_repr import short_repr

with extra("sklearn", "fitting a concept vector"):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class ConceptVector:
    """The unit normal of the plane that parts a concept from the rest.

    Example:
        >>> import torch
        >>> from interp.concepts import cav
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> concept = cav(x[:20] + 5 * torch.eye(4)[2], x[20:])
        >>> round(float(concept.vector.norm()), 3)
        1.0
    """

    vector: Float[Tensor, " d"]
    """Of the activations as they are, pointing to the concept; to be given to ``interp.steer_residual``."""
    accuracy: Estimate
    """On activations that were held out (five folds), the two sides weighed the same, ± over activations; as the best
    of several strengths it flatters a little."""
    strength: float
    """Inverse of the L2 penalty, chosen by the held-out accuracy of folds."""

    __repr__ = short_repr


def cav(
    positive: Float[Tensor, "n d"], negative: Float[Tensor, "m e"], *, strength: float | None = None, seed: int = 0
) -> ConceptVector:
    """Logistic regression with L2 on standardised activations, its normal brought back to the original ones.

    Standardising, by the spread inside the sides, keeps massive dimensions from deciding alone. Sides of different size
    weigh the same.

    Args:
        positive: activations of the concept, such as :func:`last_states` of prompts.
        negative: of others.
        strength: inverse of the penalty; by default the best of five by cross-validation, the smallest of equals.
        seed: of the folds.

    Raises:
        ValueError: fewer than five activations on a side, other widths, or entries that are not finite.

    Example:
        >>> import torch
        >>> from interp.concepts import cav
        >>> x = torch.randn(80, 8, generator=torch.Generator().manual_seed(0))
        >>> found = cav(x[:40] + 4 * torch.eye(8)[0], x[40:])
        >>> int(found.vector.argmax()), found.accuracy.value > 0.9
        (0, True)
    """
    if positive.shape[1] != negative.shape[1] or min(len(positive), len(negative)) < _FOLDS:
        raise ValueError(
            f"activations of shapes {list(positive.shape)} and {list(negative.shape)}: give {_FOLDS} or more on each"
            " side, of one width"
        )
    x = torch.cat([positive, negative]).double().cpu().numpy()
    if not np.isfinite(x).all():
        raise ValueError("activations hold entries that are not finite")
    y = np.repeat([1, 0], [len(positive), len(negative)])
    splits = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(x, y))
    best, right = 0.0, np.zeros(len(y))
    for candidate in _STRENGTHS if strength is None else (strength,):
        guess = np.zeros(len(y))
        for train, test in splits:
            w, bias = _plane(x[train], y[train], candidate)
            guess[test] = x[test] @ w + bias > 0
        score = _balanced(guess == y, y)
        if score > best + 1e-9:
            best, right, strength = score, (guess == y).astype(np.float64), candidate
    assert strength is not None
    normal, _ = _plane(x, y, strength)
    weights = torch.from_numpy(np.where(y == 1, 0.5 / (y == 1).sum(), 0.5 / (y == 0).sum()))
    accuracy = metrics.ratio(torch.from_numpy(right) * weights, weights)
    vector = torch.from_numpy(normal / np.linalg.norm(normal)).float()
    return ConceptVector(vector=vector, accuracy=accuracy, strength=float(strength))


def tcav(gradients: Float[Tensor, "n d"], vector: Float[Tensor, " e"]) -> Estimate:
    """Share of inputs whose target rises along the concept: gradient · vector > 0; ± over inputs.

    Near 0 means as much as near 1: the concept speaks against the target.

    Raises:
        ValueError: no inputs, or a vector of another width.

    Example:
        >>> import torch
        >>> from interp.concepts import tcav
        >>> tcav(torch.tensor([[1.0, 0.0], [-1.0, 2.0]]), torch.tensor([1.0, 0.0])).value
        0.5
    """
    if not len(gradients) or gradients.shape[1:] != vector.shape:
        raise ValueError(
            f"gradients of shape {list(gradients.shape)} and a vector of {list(vector.shape)}: give one gradient or"
            " more, of the vector's width"
        )
    return metrics.mean((gradients.float() @ vector.float().to(gradients.device) > 0).float().cpu())


def _balanced(right: np.ndarray, y: np.ndarray) -> float:
    return float((right[y == 1].mean() + right[y == 0].mean()) / 2)


def _plane(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Normal and offset in the space of ``x``."""
    mean, total = x.mean(0), x.std(0)
    # Within the sides: the difference between them must not make a dimension look wide, and so count less.
    within = np.sqrt(sum(x[y == side].var(0) for side in (0, 1)) / 2)
    least = 1e-6 * max(1.0, float(total.max()))
    scale = np.where(within > least, within, np.where(total > least, total, np.inf))  # constant ones say nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = LogisticRegression(C=strength, class_weight="balanced", max_iter=200).fit((x - mean) / scale, y)
    normal = fit.coef_[0] / scale
    return normal, float(fit.intercept_[0] - normal @ mean)
