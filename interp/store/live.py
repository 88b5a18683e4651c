"""Activations straight from the model, without a disk, shuffled through a buffer of a stated size.

An epoch puts the rows of tokens in an order of its seed and cuts what they hold into blocks of ``buffer_tokens``. The
buffer is filled with one block, which is given out in an order of its own, and then filled with the next. Every block
is a function of seed and number, so step ``k`` is reached by computing its block alone. The shuffle is over rows of the
whole text and, within the buffer, over tokens; an :class:`~interp.store.ActivationStore` shuffles over all tokens.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.bridge import Model
from interp.sites.site import Site, expand_sites
from interp.store.activation_store import check_batches
from interp.store.masks import Masks
from interp.store.shuffle import Permutation
from interp.store.streaming import check_input, default_batch_rows, describe, site_widths, stream
from interp.tokens.token_rows import TokenRows


class LiveActivations:
    """The same promises as an :class:`~interp.store.ActivationStore`, kept by running the model.

    Args:
        model: A TransformerBridge with raw weights.
        rows: Of :func:`interp.tokens.write_token_rows`.
        sites: Names, or patterns such as ``blocks.*.hook_resid_post``.
        buffer_tokens: Size of the shuffle buffer, in tokens; it holds that many float32 activations of each site asked
            for, and no more.
        masks: Tokens to leave out; by default padding only. The norm mask is refused: how many tokens it leaves, and so
            where a step begins, is only known once all of them have been computed.
        batch_rows: Rows to run at once; by default about 4,096 tokens.

    Raises:
        ValueError: the input is of no use; the message says which and why.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> live = interp.LiveActivations(model, rows, "blocks.2.hook_resid_post", buffer_tokens=1_024)
        >>> next(live.batches("blocks.2.hook_resid_post", 512, seed=0)).shape
        torch.Size([512, 96])
    """

    def __init__(
        self,
        model: Model,
        rows: TokenRows,
        sites: str | Site | Iterable[str | Site],
        *,
        buffer_tokens: int,
        masks: Masks | None = None,
        batch_rows: int | None = None,
    ) -> None:
        self._masks = masks or Masks()
        if self._masks.drop_norm_above is not None:
            raise ValueError(
                "live activations have no norm mask: it would make the number of tokens unknown. Cache to disk with"
                " drop_norm_above, or use drop_special and drop_first"
            )
        self._batch_rows = default_batch_rows(rows) if batch_rows is None else batch_rows
        for name, value in (("buffer_tokens", buffer_tokens), ("batch_rows", self._batch_rows)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        places = expand_sites(model, sites)
        check_input(model, rows)
        self._model, self._rows, self.buffer_tokens = model, rows, buffer_tokens
        self._counts = self._masks.counts(rows)
        self._widths = site_widths(model, places)
        self.sites: tuple[Site, ...] = places
        self.provenance = describe(model, rows, self._widths, self._masks) | {"buffer_tokens": buffer_tokens}

    def __len__(self) -> int:
        """Number of tokens of an epoch."""
        return int(self._counts.sum())

    def width(self, site: str | Site) -> int:
        """Size of an activation."""
        return self._widths[self._checked(site)]

    def batches(
        self, site: str | Site, batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "b d"]]:
        """One epoch of float32 activations (on the CPU), from batch number ``start`` on; the last batch may be short.

        Batch ``k`` depends on ``seed``, ``batch_size`` and ``k`` alone, and is the caller's own.
        """
        place = self._checked(site)
        return (batch[place] for batch in self.batches_of([place], batch_size, seed, start))

    def batches_of(
        self, sites: Sequence[str | Site], batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[dict[Site, Float[Tensor, "b d"]]]:
        """:meth:`batches` of several sites at once: row ``i`` of each belongs to the same token."""
        places = [self._checked(site) for site in sites]
        check_batches(batch_size, seed, start)
        return self._batches(places, batch_size, seed, start)

    def _batches(self, sites: list[Site], batch_size: int, seed: int, start: int) -> Iterator[dict[Site, Tensor]]:
        order = Permutation(len(self._counts), seed).part(0, len(self._counts))
        ends = np.concatenate([[0], np.cumsum(self._counts[order])])  # of the rows, in tokens of the epoch
        size = min(self.buffer_tokens, len(self))
        buffers = {site: torch.empty(size, self._widths[site]) for site in sites}
        held = -1
        for begin in range(start * batch_size, len(self), batch_size):
            stop = min(begin + batch_size, len(self))
            batch = {site: torch.empty(stop - begin, self._widths[site]) for site in sites}
            done = begin
            while done < stop:
                block = done // size
                if block != held:
                    filled = self._fill(buffers, order, ends, block)
                    # Another order in every block; adding to the seed would repeat that of the next epoch's.
                    shuffled = torch.from_numpy(Permutation(filled, (seed << 32) + block).part(0, filled))
                    held = block
                end = min(stop, (block + 1) * size)
                chosen = shuffled[done - block * size : end - block * size]
                for site in sites:
                    torch.index_select(buffers[site], 0, chosen, out=batch[site][done - begin : end - begin])
                done = end
            yield batch

    def _fill(self, buffers: dict[Site, Tensor], order: np.ndarray, ends: np.ndarray, block: int) -> int:
        """Compute one block into the buffers; returns its number of tokens. Rows on its borders are computed twice."""
        size = len(next(iter(buffers.values())))
        begin, stop = block * size, min((block + 1) * size, len(self))
        first, last = np.searchsorted(ends, begin, side="right") - 1, np.searchsorted(ends, stop)
        at = int(ends[first])
        sites = list(buffers)
        for found in stream(
            self._model, self._rows, sites, order[first:last], masks=self._masks, batch_rows=self._batch_rows
        ):
            n = len(found.tokens)
            inside = slice(max(0, begin - at), max(0, min(n, stop - at)))
            target = slice(at + inside.start - begin, at + inside.stop - begin)
            for site in sites:
                buffers[site][target] = found.at[site][inside].float()
            at += n
        return stop - begin

    def _checked(self, site: str | Site) -> Site:
        place = Site.parse(site)
        if place not in self._widths:
            raise ValueError(f"{place} is not one of these sites: {', '.join(map(str, self.sites))}")
        return place
