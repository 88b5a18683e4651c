"""Rows of the adjacency while it grows: sparse, so that a long prompt never takes the square of its latents."""

from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Shaped
from scipy import sparse
from torch import Tensor

BYTES = 2**29
"""Memory of all rows together. A row that does not fit into its share keeps its largest entries."""
OF_AN_ENTRY = 12
"""Bytes of an entry: an index and a number, in float64 at most."""


class Rows:
    """What sources add to targets, row after row.

    Args:
        columns: Number of sources.
        most: Most rows that there will be.
        memory: Bytes of all of them.
    """

    def __init__(self, columns: int, most: int, memory: int = BYTES) -> None:
        self.columns = columns
        self.width = min(columns, max(256, memory // (OF_AN_ENTRY * max(1, most))))
        self._entries: list[tuple[np.ndarray, np.ndarray]] = []
        self._sums: list[float] = []
        self.totals: list[float] = []
        """Of each row the sum of all sources, kept or not."""
        self.dropped: list[float] = []
        """Of each row the share of its absolute sum that was not kept."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, effects: Shaped[Tensor, "b columns"]) -> None:
        """Keep the rows of one batch."""
        for row in effects:
            sizes = row.abs()
            where = sizes.nonzero().flatten()
            if len(where) > self.width:
                where = where[sizes[where].topk(self.width).indices].sort().values
            total, kept = float(sizes.double().sum()), float(sizes[where].double().sum())
            self._entries.append((where.to(torch.int32).cpu().numpy(), row[where].cpu().numpy()))
            self._sums.append(total)
            self.totals.append(float(row.double().sum()))
            self.dropped.append(1 - kept / total if total else 0.0)

    @property
    def sizes(self) -> np.ndarray:
        """Of each row the sum of absolute values, kept or not."""
        return np.array(self._sums)

    def matrix(self, chosen: np.ndarray | None = None) -> sparse.csr_array:
        """``[row, column]``, of all rows or of the chosen ones."""
        entries = self._entries if chosen is None else [self._entries[i] for i in chosen]
        ends = np.cumsum([0, *(len(where) for where, _ in entries)])
        where = np.concatenate([e[0] for e in entries]) if entries else np.empty(0, np.int32)
        values = np.concatenate([e[1] for e in entries]) if entries else np.empty(0, np.float32)
        return sparse.csr_array((values, where, ends), shape=(len(entries), self.columns))

    def influence(self, weights: np.ndarray, column: np.ndarray, layer: np.ndarray) -> np.ndarray:
        """Influence of every column through the rows known so far, ``[column]``.

        Args:
            weights: Of every row, 0 but for targets.
            column: Which column a row is of; -1 for targets.
            layer: Before which layer a row's sources are: rows are gone through from the last layer down, so that
                each has all its influence when its turn comes.
        """
        total = np.zeros(self.columns)
        groups: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self)):
            groups[int(layer[row])].append(row)
        for its_layer in sorted(groups, reverse=True):
            rows = np.array(groups[its_layer])
            its_column = column[rows]
            mass = weights[rows] + np.where(its_column >= 0, total[np.maximum(its_column, 0)], 0.0)
            scale = mass / np.maximum(self.sizes[rows], 1e-30)
            total += abs(self.matrix(rows)).T @ scale
        return total
