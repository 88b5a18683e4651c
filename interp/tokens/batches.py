"""Rows of text in batches, and which of their positions are measured."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.tokens.token_rows import TokenRows, require_rows


def rows_wanted(rows: TokenRows, *, max_tokens: int, first_position: int) -> int:
    """How many of the first rows hold ``max_tokens`` tokens; all of them where there are fewer.

    Raises ValueError where nothing would be left to measure.
    """
    require_rows(rows)
    context = rows.ids.shape[1]
    count = min(len(rows.ids), -(-max_tokens // context))
    if not 0 <= first_position < context - 1:
        raise ValueError(
            f"first_position is {first_position}; with rows of {context} tokens, the last of which predicts none, it is"
            f" from 0 to {context - 2}"
        )
    if count <= 0:
        raise ValueError(
            f"no token to evaluate on: {len(rows.ids)} rows of {context} tokens, max_tokens {max_tokens}: give more"
            " text"
        )
    return count


def row_batches(
    rows: TokenRows, count: int, batch_rows: int, *, device: torch.device
) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """Token ids and documents of the first ``count`` rows, on ``device``."""
    for begin in range(0, count, batch_rows):
        window = slice(begin, min(begin + batch_rows, count))
        yield rows.tensor_of("ids", window).to(device), rows.tensor_of("documents", window).to(device)


def measured(
    documents: Int[Tensor, "batch position"],
    first_position: int,
    *,
    ids: Int[Tensor, "batch position"] | None = None,
    drop_tokens: Sequence[int] = (),
) -> Bool[Tensor, "batch position"]:
    """Positions that are of a document, not padding, not before ``first_position``, and whose ``ids`` are not among
    ``drop_tokens``."""
    kept = documents >= 0
    kept[:, :first_position] = False
    if ids is not None and drop_tokens:
        kept &= ~torch.isin(ids, torch.tensor(list(drop_tokens), dtype=ids.dtype, device=ids.device))
    return kept


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
