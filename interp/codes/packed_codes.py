"""Codes as bits in bytes: how many repeat, and how far they are from each other."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate

_PAIRS = 200_000


def pack(activations: Float[Tensor, "n neurons"]) -> UInt8[np.ndarray, "n bytes"]:
    """1 where an activation is above 0, eight neurons a byte, the last byte filled with 0.

    Raises:
        ValueError: no neurons, or entries that are NaN.

    Example:
        >>> import torch
        >>> from interp.codes import pack
        >>> pack(torch.tensor([[1.0, -2.0, 3.0]])).tolist()
        [[160]]
    """
    if not activations.shape[1] or activations.isnan().any():
        raise ValueError(f"activations of shape {list(activations.shape)}: give one neuron or more, and no NaN")
    return np.packbits((activations > 0).cpu().numpy(), axis=1)


def redundancy(codes: UInt8[np.ndarray, "n bytes"], *, groups: Int[Tensor, " n"] | None = None) -> Estimate:
    """(n - distinct codes) / n: the share of inputs whose code another input has already; 1 minus it is determinism.

    Inputs that are equal have equal codes: leave repetitions out first. ± over ``groups``, such as sequences.

    Raises:
        ValueError: no codes.

    Example:
        >>> import torch
        >>> from interp.codes import pack, redundancy
        >>> redundancy(pack(torch.tensor([[1.0], [2.0], [-1.0], [3.0]]))).value
        0.5
    """
    if not len(codes):
        raise ValueError("there are no codes to compare: give one input or more")
    rows = np.ascontiguousarray(codes).view([("", codes.dtype)] * codes.shape[1])[:, 0]
    _, first = np.unique(rows, return_index=True)
    repeated = torch.ones(len(codes))
    repeated[torch.from_numpy(first)] = 0
    return metrics.ratio(repeated, torch.ones_like(repeated), groups=groups, blocks=False)


def hamming(a: UInt8[np.ndarray, "n bytes"], b: UInt8[np.ndarray, "m bytes"]) -> Int[np.ndarray, "n m"]:
    """Bits in which each pair differs.

    Example:
        >>> import numpy as np
        >>> from interp.codes import hamming
        >>> hamming(np.array([[160]], np.uint8), np.array([[160], [32]], np.uint8)).tolist()
        [[0, 1]]
    """
    # Of bits x and y: |x| + |y| - 2 x·y, by one product of matrices.
    x, y = (np.unpackbits(each, axis=1).astype(np.float32) for each in (a, b))
    distance = x.sum(1)[:, None] + y.sum(1)[None] - 2 * (x @ y.T)
    return distance.round().astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Mean share of bits in which two inputs differ.

    Example:
        >>> import torch
        >>> from interp.codes import class_distances, pack
        >>> classes = torch.tensor([0, 0, 1, 1])
        >>> signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]])
        >>> distances = class_distances(pack(signs), classes, neurons=2)
        >>> distances.within.value < distances.between.value
        True
    """

    within: Estimate
    """Of pairs of one class, ± over pairs (which share inputs, so that it is too small where classes are few)."""
    between: Estimate
    """Of pairs of two classes."""


def class_distances(
    codes: UInt8[np.ndarray, "n bytes"], classes: Int[Tensor, " inputs"], *, neurons: int, seed: int = 0
) -> Distances:
    """Distances inside and between classes, over all pairs, or 200,000 of them drawn at random.

    Raises:
        ValueError: not one class for each code; no pair of one class, or of two.

    Example:
        >>> import torch
        >>> from interp.codes import class_distances, pack
        >>> classes = torch.arange(20) % 2
        >>> codes = pack((classes[:, None] * 2.0 - 1).expand(20, 16))
        >>> found = class_distances(codes, classes, neurons=16)
        >>> found.within.value, found.between.value
        (0.0, 1.0)
    """
    if len(classes) != len(codes):
        raise ValueError(f"{len(classes)} classes for {len(codes)} codes: give one for each")
    n, labels = len(codes), classes.cpu().numpy()
    if n * (n - 1) // 2 <= _PAIRS:
        i, j = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(seed)
        i, j = rng.integers(n, size=(2, _PAIRS))
        order = np.argsort(labels, kind="stable")
        neighbours = np.flatnonzero(labels[order][1:] == labels[order][:-1])  # pairs of one class would be rare
        i, j = (np.concatenate(pair) for pair in ((i, order[neighbours]), (j, order[neighbours + 1])))
        i, j = i[i != j], j[i != j]
    same = labels[i] == labels[j]
    if not same.any() or same.all():
        raise ValueError("no two inputs are of one class, or all are: distances within and between need both")
    found = []
    for chosen in (same, ~same):
        a, b = codes[i[chosen]], codes[j[chosen]]
        differ = np.unpackbits(a ^ b, axis=1).sum(1) / neurons
        found.append(metrics.mean(torch.from_numpy(differ).float()))
    return Distances(within=found[0], between=found[1])
