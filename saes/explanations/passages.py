"""Text cut into short passages, half of them to explain latents from and half to score explanations on.

Two passes over the text: the first counts, for every latent, the passages of each half in which it is active; the
second keeps the activations of a few latents, sparse. No document is in both halves (no row, where there are fewer
than ``MIN_GROUPS`` documents), so that nothing is scored on what it was explained from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from interp.metrics import MIN_GROUPS
from interp.tokens.batches import rows_wanted
from saes.features.examples import Example, Text, encoded
from saes.sae import SAE


class Grid:
    """Passages of ``width`` tokens side by side in the rows of a text; what is left of a row is not used.

    Raises:
        ValueError: rows are shorter than a passage, or all of the text is padding.
    """

    def __init__(self, text: Text, *, width: int, seed: int) -> None:
        context = text.rows.ids.shape[1]
        if not 4 <= width <= context:
            raise ValueError(f"passages of {width} tokens; they must have 4 or more, and at most a row's {context}")
        self.text, self.width, self.per_row = text, width, context // width
        rows = rows_wanted(text.rows, max_tokens=text.max_tokens, first_position=text.first_position)
        self.ids, documents = (
            np.asarray(column[:rows, : self.per_row * width]).reshape(-1, width)
            for column in (text.rows.ids, text.rows.documents)
        )
        self.whole: np.ndarray = np.asarray((documents >= 0).all(1))
        if not self.whole.any():
            raise ValueError(f"no passage of {width} tokens is without padding; choose shorter ones, or give more text")
        units = documents[:, 0]
        if len(np.unique(units[self.whole])) < MIN_GROUPS:
            units = np.arange(len(units)) // self.per_row
        names = np.unique(units[self.whole])
        scoring = np.random.default_rng(seed).permutation(names)[len(names) // 2 :]
        self.scoring: np.ndarray = np.isin(units, scoring) & self.whole
        self.explaining: np.ndarray = ~self.scoring & self.whole


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Of every latent, how often it is active."""

    tokens: int
    """Measured tokens of the text."""
    active: Int[Tensor, " d_sae"]
    """Tokens on which the latent is above 0."""
    maximum: Float[Tensor, " d_sae"]
    """Its largest activation, 0 where it is never active."""
    explaining: Int[Tensor, " d_sae"]
    """Passages to explain from in which it is active."""
    scoring: Int[Tensor, " d_sae"]
    """Passages to score on in which it is active."""

    def density(self, latent: int) -> float:
        """Share of tokens on which it is active."""
        return int(self.active[latent]) / self.tokens


@torch.no_grad()
def survey(sae: SAE, grid: Grid) -> Survey:
    """Count, in one pass. Raises ValueError as :func:`saes.features.count_latents` does."""
    device = sae.W_enc.device
    active, explaining, scoring = (torch.zeros(sae.d_sae, dtype=torch.int64, device=device) for _ in range(3))
    maximum, tokens = torch.zeros(sae.d_sae, device=device), 0
    halves = [torch.from_numpy(half).to(device) for half in (grid.explaining, grid.scoring)]
    for batch in encoded(sae, grid.text, what="count passages"):
        found, tokens = batch.latents, tokens + int(batch.measured.sum())
        on = found.values > 0
        active += torch.bincount(found.indices[on], minlength=sae.d_sae)
        maximum.scatter_reduce_(0, found.indices[on], found.values[on].float(), "amax")
        rows, here = len(on), grid.per_row * grid.width
        first = batch.first_row * grid.per_row
        where = torch.arange(rows * grid.per_row, device=device).repeat_interleave(grid.width).view(rows, here)
        flat = (where[..., None] * sae.d_sae + found.indices[:, :here])[on[:, :here]]
        seen = torch.zeros(rows * grid.per_row * sae.d_sae, dtype=torch.bool, device=device)
        seen[flat] = True
        seen = seen.view(-1, sae.d_sae)
        for counts, half in zip((explaining, scoring), halves, strict=True):
            counts += seen[half[first : first + len(seen)]].sum(0)
    return Survey(
        tokens=tokens,
        active=active.cpu(),
        maximum=maximum.cpu(),
        explaining=explaining.cpu(),
        scoring=scoring.cpu(),
    )


class Activity:
    """Activations of some latents in every passage, and passages by them."""

    def __init__(self, grid: Grid, columns: dict[int, csr_matrix]) -> None:
        self.grid, self._columns = grid, columns

    def peaks(self, latent: int) -> np.ndarray:
        """Its largest activation in each passage."""
        return np.asarray(self._columns[latent].max(axis=1).todense()).ravel()

    def strongest_first(self, latent: int, half: np.ndarray) -> np.ndarray:
        """Passages of a half in which it is active; of equal ones the earlier comes first."""
        peaks = self.peaks(latent)
        windows = np.flatnonzero((peaks > 0) & half)
        return windows[np.argsort(-peaks[windows], kind="stable")]

    def silent(self, latent: int, half: np.ndarray) -> np.ndarray:
        """Passages of a half in which it is not active."""
        return np.flatnonzero((self.peaks(latent) <= 0) & half)

    def example(self, latent: int, window: int) -> Example:
        """A passage with the latent's activations on it."""
        activations = self._columns[latent].getrow(window).toarray()[0]
        row, place = divmod(window, self.grid.per_row)
        first, peak = place * self.grid.width, int(activations.argmax())
        return Example(
            row=row,
            position=first + peak,
            activation=float(activations[peak]),
            first=first,
            ids=tuple(self.grid.ids[window].tolist()),
            activations=tuple(activations.tolist()),
        )


@torch.no_grad()
def gather(sae: SAE, grid: Grid, latents: Sequence[int]) -> Activity:
    """Activations above 0 of ``latents``, in one pass."""
    here = grid.per_row * grid.width
    pieces: list[list[csr_matrix]] = [[] for _ in latents]
    for batch in encoded(sae, grid.text, what="gather passages"):
        dense = batch.dense(latents)[:, :here].clamp_min(0).cpu().numpy()
        for number, column in enumerate(pieces):
            column.append(csr_matrix(dense[..., number].reshape(-1, grid.width)))
    columns = {latent: csr_matrix(vstack(column)) for latent, column in zip(latents, pieces, strict=True)}
    return Activity(grid, columns)
