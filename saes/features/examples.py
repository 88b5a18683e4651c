"""What single latents respond to: how often, how strongly, and the passages of a text where most.

Passes over the text, all streaming: the first counts for all latents; the second keeps the strongest passages of
the chosen ones, each with the activations around its strongest token; the third sees other levels (``levels.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp.models.bridge import Model
from interp.sites.site import Site
from interp.sites.splicing import vectors_at
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr
from interp.tokens.batches import measured, row_batches, rows_wanted
from interp.tokens.token_rows import TokenRows
from saes.latents import Latents
from saes.sae import SAE
from saes.same_model import check_same_model, name_of


@dataclass(frozen=True, kw_only=True)
class Text:
    """The part of a text that features are looked up in, with the model that reads it.

    Example:
        >>> import interp
        >>> from saes.features import Text
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=1_000)
        >>> Text(model=model, rows=rows, site=interp.Site("resid_post", 2)).sites[0].layer
        2
    """

    model: Model
    """The model whose activations the SAE reads."""
    rows: TokenRows
    """The text's rows of token ids."""
    site: Site | tuple[Site, ...]
    """Where the SAE reads; a part of a dictionary over places may read several."""
    max_tokens: int = 100_000
    """The most tokens that are looked at."""
    first_position: int = 0
    """Earlier positions of a row are shown, and not counted."""
    drop_tokens: tuple[int, ...] = ()
    """Ids of tokens that are shown, and not counted."""
    batch_rows: int = 8
    """Rows in one forward pass of the model."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """One, or those that the part reads."""
        return self.site if isinstance(self.site, tuple) else (self.site,)


@dataclass(frozen=True, kw_only=True)
class LatentCounts:
    """Of every latent over a text: counts, not estimates.

    Example:
        >>> import torch
        >>> from saes.features import LatentCounts
        >>> counts = LatentCounts(tokens=100, active=torch.tensor([50, 0]), maximum=torch.tensor([3.0, 0.0]))
        >>> (counts.active / counts.tokens).tolist()  # densities
        [0.5, 0.0]
    """

    tokens: int
    """Measured tokens of the text."""
    active: Int[Tensor, " d_sae"]
    """Tokens on which the latent is not zero; divided by ``tokens``, its density."""
    maximum: Float[Tensor, " d_sae"]
    """Its largest activation, 0 where it never is active."""

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Example:
    """A passage around the token of one row on which a latent is most active.

    Example:
        >>> from saes.features import Example
        >>> shown = Example(row=0, position=4, activation=2.0, first=3, ids=(7, 8), activations=(0.0, 2.0))
        >>> shown.ids[shown.position - shown.first]  # the token on which the latent is strongest
        8
    """

    row: int
    """Number of the row in the text."""
    position: int
    """Of that token in its row."""
    activation: float
    """The latent's activation on that token."""
    first: int
    """Position of the passage's first token."""
    ids: tuple[int, ...]
    """Ids of the passage's tokens, in their order."""
    activations: tuple[float, ...]
    """Of the latent, on each token of the passage."""


@torch.no_grad()
def count_latents(sae: SAE, text: Text) -> LatentCounts:
    """Raises ValueError where there is no text, or where the site's width or the model is not the SAE's.

    Example:
        >>> import interp, saes
        >>> import torch
        >>> from saes.features.examples import Text
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> counts = saes.count_latents(sae, Text(model=model, rows=rows, site=interp.Site.parse(sae.site)))
        >>> int(counts.active.sum()) == 8 * counts.tokens
        True
    """
    tokens, active = 0, torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.W_enc.device)
    maximum = torch.zeros(sae.d_sae, device=sae.W_enc.device)
    for batch in encoded(sae, text, what="count latents"):
        latents = batch.latents
        on = latents.values != 0
        indices = latents.indices[on]
        active += torch.bincount(indices, minlength=sae.d_sae)
        maximum.scatter_reduce_(0, indices, latents.values[on].float(), "amax")
        tokens += int(batch.measured.sum())
    return LatentCounts(tokens=tokens, active=active.cpu(), maximum=maximum.cpu())


def spread_over_density(counts: LatentCounts, n: int) -> list[int]:
    """``n`` of the latents that are ever active (all, if fewer), evenly spaced in order of density, in order of number.

    The densest and the rarest are among them.

    Example:
        >>> import torch
        >>> from saes.features import LatentCounts, spread_over_density
        >>> active = torch.tensor([5, 90, 0, 40])
        >>> spread_over_density(LatentCounts(tokens=100, active=active, maximum=active / 10), 2)
        [0, 1]
    """
    if n < 1:
        raise ValueError(f"{n} latents were asked for; ask for 1 or more")
    order = counts.active.argsort(descending=True, stable=True)[: int((counts.active > 0).sum())]
    return sorted(order[torch.linspace(0, len(order) - 1, min(n, len(order))).round().long()].tolist())


@torch.no_grad()
def top_examples(
    sae: SAE, text: Text, latents: Sequence[int], *, k: int = 8, before: int = 20, after: int = 10
) -> list[tuple[Example, ...]]:
    """For each of ``latents`` the ``k`` rows with the largest activations, largest first; fewer where fewer have any.

    A row appears once, at its strongest token, with up to ``before`` and ``after`` tokens of the row around it. Of
    equal activations the earlier row comes first.
    Raises ValueError for a latent that the SAE lacks, k < 1, and as ``count_latents``.

    Example:
        >>> import interp, saes
        >>> import torch
        >>> from saes.features.examples import Text
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> where = Text(model=model, rows=rows, site=interp.Site.parse(sae.site))
        >>> ((first, *_),) = saes.top_examples(sae, where, [5], k=3)
        >>> len(first.ids) == len(first.activations)
        True
    """
    if wrong := [latent for latent in latents if not 0 <= latent < sae.d_sae]:
        raise ValueError(f"there is no latent {wrong[0]}; this SAE has 0 to {sae.d_sae - 1}")
    if k < 1 or before < 0 or after < 0:
        raise ValueError(f"k is {k}, before {before}, after {after}; k must be 1 or more, the others 0 or more")
    best = Best(len(latents), k=k, before=before, after=after, device=sae.W_enc.device)
    for batch in encoded(sae, text, what="find examples"):
        dense = batch.dense(latents)
        best.see(batch.first_row, dense, dense)
    return best.examples(text.rows)


class Best:
    """For each of some latents the ``k`` rows with the largest scores above 0, and the activations around the token of
    the row that has its largest score; filled batch by batch."""

    def __init__(self, latents: int, *, k: int, before: int, after: int, device: torch.device) -> None:
        self._k, self._before, self._after = k, before, after
        self._width = before + 1 + after
        self._scores = torch.zeros(latents, 0, device=device)
        self._windows = torch.zeros(latents, 0, self._width, device=device)
        self._rows, self._positions = (torch.zeros(latents, 0, dtype=torch.int64, device=device) for _ in range(2))

    def see(
        self,
        first_row: int,
        dense: Float[Tensor, "row position latent"],
        scores: Float[Tensor, "row position latent"],
    ) -> None:
        """Take in the activations and scores of the rows from ``first_row`` on."""
        peaks, at = scores.max(1)
        around = at[:, None] + torch.arange(self._width, device=dense.device)[:, None]
        window = functional.pad(dense, (0, 0, self._before, self._after)).gather(1, around)
        numbers = torch.arange(first_row, first_row + len(peaks), device=dense.device)[:, None].expand_as(at)
        # Stable, so that a row which came earlier keeps its place before an equal one.
        merged, order = torch.cat([self._scores, peaks.T], 1).sort(dim=1, descending=True, stable=True)
        self._scores, order = merged[:, : self._k], order[:, : self._k]
        self._rows = torch.cat([self._rows, numbers.T], 1).gather(1, order)
        self._positions = torch.cat([self._positions, at.T], 1).gather(1, order)
        wide = order[..., None].expand(-1, -1, self._width)
        self._windows = torch.cat([self._windows, window.permute(2, 0, 1)], 1).gather(1, wide)

    def scores(self, i: int) -> list[float]:
        """Of each of the examples of the latent in place ``i``."""
        return [score for score in self._scores[i].tolist() if score > 0]

    def examples(self, rows: TokenRows) -> list[tuple[Example, ...]]:
        """Of each latent, the largest score first."""
        each = zip(
            self._scores.tolist(), self._rows.tolist(), self._positions.tolist(), self._windows.cpu(), strict=True
        )
        return [
            tuple(
                example_at(rows, row, position, window, self._before)
                for score, row, position, window in zip(*column, strict=True)
                if score > 0
            )
            for column in each
        ]


def example_at(rows: TokenRows, row: int, position: int, window: Float[Tensor, " w"], before: int) -> Example:
    """Of the activations around a position, ``before`` of them earlier than it."""
    first = max(0, position - before)
    kept = rows.documents[row, first : position - before + len(window)] >= 0  # padding is on the right
    ids = rows.ids[row, first : first + int(np.count_nonzero(kept))]
    offset = first - (position - before)
    return Example(
        row=row,
        position=position,
        activation=float(window[before]),
        first=first,
        ids=tuple(ids.tolist()),
        activations=tuple(window[offset : offset + len(ids)].tolist()),
    )


def merged(examples: Sequence[Example], *, k: int, around: int = 4) -> tuple[tuple[Example, ...], tuple[int, ...]]:
    """The first ``k`` examples that differ in the ``around`` tokens before the strongest, in it, or in the next.

    And how many there are of each: copies of a passage would fill the page.
    """
    kinds: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        peak = example.position - example.first
        kinds.setdefault(example.ids[max(0, peak - around) : peak + 2], []).append(example)
    kept = list(kinds.values())[:k]
    return tuple(each[0] for each in kept), tuple(map(len, kept))


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """A batch of rows."""

    first_row: int
    """Number of its first row in the text."""
    x: Float[Tensor, "row position d"]
    """What the SAE reads."""
    latents: Latents
    """All of them 0 on tokens that are not measured."""
    measured: Bool[Tensor, "row position"]
    """Which tokens are counted."""

    def dense(self, chosen: Sequence[int]) -> Float[Tensor, "row position chosen"]:
        """Dense activations of the chosen latents alone."""
        latents, device = self.latents, self.latents.indices.device
        column = torch.full((latents.d_sae,), len(chosen), device=device)
        column[list(chosen)] = torch.arange(len(chosen), device=device)
        dense = latents.values.new_zeros(*latents.values.shape[:-1], len(chosen) + 1, dtype=torch.float32)
        return dense.scatter_add_(-1, column[latents.indices], latents.values.float())[..., :-1]


def encoded(sae: SAE, text: Text, *, what: str) -> Iterator[EncodedRows]:
    """The text, batch by batch; ``what`` is done with it, for those who wait."""
    check_same_model(sae, name_of(text.model))
    count = rows_wanted(text.rows, max_tokens=text.max_tokens, first_position=text.first_position)
    first_row = 0
    batches = row_batches(text.rows, count, text.batch_rows, device=sae.W_enc.device)
    for ids, documents in counted(batches, what, -(-count // text.batch_rows), unit="batches"):
        x = vectors_at(text.model, ids, *text.sites, attention_mask=documents >= 0).to(sae.W_enc.dtype)
        if x.shape[-1] != sae.d_in:
            at = ", ".join(map(str, text.sites))
            raise ValueError(f"activations at {at} have width {x.shape[-1]}, the SAE takes {sae.d_in}")
        latents = sae.encode(x)
        kept = measured(documents, text.first_position, ids=ids, drop_tokens=text.drop_tokens)
        latents = Latents(latents.values * kept[..., None], latents.indices, sae.d_sae)
        yield EncodedRows(first_row=first_row, x=x, latents=latents, measured=kept)
        first_row += len(ids)
