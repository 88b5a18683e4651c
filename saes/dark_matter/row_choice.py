"""Some rows of a text, spread evenly over it, in batches that a model takes."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.tokens.token_rows import TokenRows


def evenly_spaced(candidates: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of the candidates, from first to last."""
    chosen = np.linspace(0, len(candidates) - 1, min(most, len(candidates))).round().astype(np.int64)
    return candidates[chosen] if len(candidates) else candidates


def batches_of_rows(
    rows: TokenRows, numbers: np.ndarray, batch_rows: int, *, device: torch.device
) -> Iterator[tuple[np.ndarray, Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """Numbers, token ids and documents of some rows; ids and documents on ``device``."""
    for begin in range(0, len(numbers), batch_rows):
        some = numbers[begin : begin + batch_rows]
        ids, documents = (torch.from_numpy(column[some].astype(np.int64)) for column in (rows.ids, rows.documents))
        yield some, ids.to(device), documents.to(device)
