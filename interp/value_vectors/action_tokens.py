"""Actions as tokens: the last ids of a vocabulary stand for bins of a number between two ends, as in OpenVLA and RT-2.

OpenVLA (arXiv 2406.09246, ``action_tokenizer.py``) has 256 edges and so 255 bins, but gives 256 ids: the two lowest
name the same bin. A larger id is a smaller number. The same ids serve every dimension of an action, so a token alone
does not say which joint or axis it moves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class ActionTokens:
    """Which ids are actions, and what they stand for."""

    vocab_size: int
    """Of the tokenizer: the largest action id is one less. Rows that pad the unembedding beyond it are no tokens."""
    edges: int = 256
    """Edges of bins, and ids."""
    low: float = -1.0
    """Smallest value of an action, at the first edge."""
    high: float = 1.0
    """Largest value of an action, at the last edge."""

    def check(self) -> None:
        """Refuse what leaves no bins, or more ids than there are tokens."""
        if not 2 <= self.edges <= self.vocab_size or not self.low < self.high:
            raise ValueError(
                f"{self}: there are 2 or more edges, no more than tokens, and low is below high; OpenVLA has 256 from"
                " -1 to 1 and vocab_size=32000"
            )

    @property
    def ids(self) -> range:
        """Of the action tokens, largest number first."""
        return range(self.vocab_size - self.edges, self.vocab_size)

    @property
    def centres(self) -> Float[np.ndarray, " bins"]:
        """Of the bins, smallest first."""
        edges = np.linspace(self.low, self.high, self.edges)
        return (edges[:-1] + edges[1:]) / 2

    def decode(self, ids: Any) -> Float[np.ndarray, "*shape"]:
        """Numbers that action ids stand for: the centres of their bins.

        Raises:
            ValueError: an id that is no action.
        """
        given: Int[np.ndarray, ...] = np.asarray(ids)
        if ((given < self.ids.start) | (given >= self.ids.stop)).any():
            raise ValueError(
                f"action ids are {self.ids.start} to {self.ids.stop - 1}, and not all of {given.tolist()} are"
            )
        return np.asarray(self.centres[np.clip(self.vocab_size - given - 1, 0, self.edges - 2)])

    def encode(self, values: Any) -> Int[np.ndarray, "*shape"]:
        """Ids of numbers; those beyond the ends become the ends."""
        edges = np.linspace(self.low, self.high, self.edges)
        return np.asarray(self.vocab_size - np.digitize(np.clip(values, self.low, self.high), edges))
