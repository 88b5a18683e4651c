"""Predict the curves of released models from their architectures: every layer a row, every figure a target."""

from collections.abc import Sequence

import numpy as np

from interp.trajectory.prediction import LOGARITHMIC, PYTHIA, Prediction, features, predict, targets
from interp.trajectory.released import QUANTITIES, ReleasedModel


def predict_released(releases: Sequence[ReleasedModel], *, quantity: str = "ratio") -> list[Prediction]:
    """Fit every layer again and predict each target, on the layers that have it (a logarithm needs a value above 0).

    Raises ValueError for a size that is not one of Pythia's, a quantity there is not, and what ``predict`` raises.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity {quantity!r}; choose {', '.join(QUANTITIES)}")
    if unknown := [each.size for each in releases if each.size not in PYTHIA]:
        raise ValueError(f"the architecture of {', '.join(unknown)} is not known; sizes: {', '.join(PYTHIA)}")
    fits = [
        (each.size, layer, targets(fit))
        for each in releases
        for layer, fit in enumerate(each.refit(quantity, bootstrap=0))
    ]
    table = np.stack([features(PYTHIA[size], layer) for size, layer, _ in fits])
    models = np.array([size for size, _, _ in fits])
    found = []
    for target in fits[0][2]:
        values = np.array([figures[target] for _, _, figures in fits])
        usable = np.isfinite(values) & ((values > 0) | (target not in LOGARITHMIC))
        found += predict(table[usable], {target: values[usable]}, models[usable].tolist())
    return found
