"""Which rows a probe never sees."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saes.dark_matter.split.split_by import SplitBy


def held_out_rows(
    documents: Int[Tensor, " n"], *, by: SplitBy = "document", train_fraction: float = 0.6, seed: int = 0
) -> Bool[Tensor, " n"]:
    """Rows to judge on: all of some documents, or some rows of all; ``train_fraction`` of either is left to fit on.

    Raises:
        ValueError: ``train_fraction`` is not between 0 and 1.
    """
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction is {train_fraction}; it must lie between 0 and 1")
    if by == "document":
        names, units = torch.unique(documents, return_inverse=True)
        count = len(names)
    else:
        count = len(documents)
        units = torch.arange(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[order[round(train_fraction * count) :]] = True
    return chosen[units]


def check_counts(held: Bool[Tensor, " n"], *, p: int) -> tuple[int, int]:
    """Rows to fit on and rows to judge on.

    Raises:
        ValueError: fewer than 5 rows to fit on for each of ``p`` regressors, or none to judge on.
    """
    n_test = int(held.sum())
    n_train = len(held) - n_test
    if n_train < 5 * p or n_test == 0:
        raise ValueError(
            f"{n_train} rows to fit on and {n_test} to judge on are too few for d = {p}: fitting needs {5 * p} or more,"
            " judging at least one document; use more tokens, or documents that are shorter"
        )
    return n_train, n_test
