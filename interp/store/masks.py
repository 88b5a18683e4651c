"""Which tokens' activations are used at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.tokens.token_rows import TokenRows, token_mask

_BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What to leave out beside padding, which is never used.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> int(interp.Masks(drop_first=1).counts(rows)[0])
        255
    """

    drop_special: bool = False
    """BOS, separators and the tokenizer's other special tokens."""
    drop_first: int = 0
    """Positions at the start of every row."""
    drop_norm_above: float | None = None
    """Tokens whose activation has, at any of the sites, a norm above this many times the site's median norm. The median
    is over the tokens of one shard that the other masks keep."""

    def check(self) -> None:
        """Refuse what makes no sense (``drop_first`` is checked against the context by :meth:`of_rows`)."""
        if self.drop_norm_above is not None and not 1 <= self.drop_norm_above < float("inf"):
            raise ValueError(
                f"drop_norm_above is {self.drop_norm_above:g}; it is how many times the median norm a token may have:"
                " 1 or more, such as 10"
            )

    def of_rows(self, rows: TokenRows, which: "slice | np.ndarray") -> Bool[np.ndarray, "rows context"]:
        """Tokens of some rows that the masks keep which need no activations."""
        return token_mask(rows, which, drop_special=self.drop_special, drop_first=self.drop_first)

    def counts(self, rows: TokenRows) -> np.ndarray:
        """Of every row, how many tokens :meth:`of_rows` keeps. [rows] int64.

        Raises:
            ValueError: none at all.
        """
        blocks = [slice(begin, begin + _BLOCK_ROWS) for begin in range(0, len(rows.ids), _BLOCK_ROWS)]
        counts = np.concatenate([self.of_rows(rows, block).sum(1, dtype=np.int64) for block in blocks])
        if not counts.any():
            raise ValueError(
                f"the masks leave none of {rows.info['tokens']} tokens (drop_special={self.drop_special},"
                f" drop_first={self.drop_first}); drop fewer"
            )
        return counts

    def by_norm(self, norms: Sequence[Float[Tensor, " n"]]) -> Bool[Tensor, " n"] | None:
        """Tokens to keep, from their norms at each site; None for all of them."""
        if self.drop_norm_above is None or not len(norms[0]):
            return None
        keep = [norm <= self.drop_norm_above * norm.median() for norm in norms]
        return torch.stack(keep).all(0)
