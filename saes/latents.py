"""Sparse latents: a few values and indices a row, which is how every part of the package hands activations on."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.terminal.short_repr import short_repr
from saes.kernels.encode import PreActivations


@dataclass(frozen=True)
class Latents:
    """Active latents of each row. Slots that hold no active latent have value 0 (their index means nothing).

    Example:
        >>> import saes, torch
        >>> saes.Latents.from_dense(torch.tensor([[0.0, 2.0, 0.0]])).indices
        tensor([[1]])
    """

    values: Float[Tensor, "*batch k_max"]
    """Activation of the latent in each slot, 0 in empty ones; k_max slots a row."""
    indices: Int[Tensor, "*batch k_max"]
    """Number of the latent in each slot, from 0 to d_sae - 1."""
    d_sae: int
    """Number of latents that there are, active or not."""
    pre: Float[Tensor, "*batch k_max"] | None = None
    """Pre-activations of the slots, from variants whose loss needs them; in empty slots 0, or minus infinity where 0
    would be taken for one (JumpReLU)."""

    __repr__ = short_repr

    @property
    def l0(self) -> Int[Tensor, "*batch"]:
        """Active latents of each row: non-zero values, not slots."""
        return (self.values != 0).sum(-1)

    @classmethod
    def from_dense(cls, dense: Float[Tensor, "*batch d_sae"]) -> "Latents":
        """The entries that are not zero, to which the gradient flows.

        Example:
            >>> import saes, torch
            >>> saes.Latents.from_dense(torch.tensor([[0.0, 2.0, 0.0]])).indices
            tensor([[1]])
        """
        slots = slots_where(dense != 0)
        return cls(dense.gather(-1, slots.indices).masked_fill(~slots.taken, 0), slots.indices, dense.shape[-1])

    def to_dense(self) -> Float[Tensor, "*batch {self.d_sae}"]:
        """The same latents with their zeros."""
        dense = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return dense.scatter_add(-1, self.indices, self.values)

    def below(self, index: int) -> "Latents":
        """Only the latents whose index is less than ``index``; the slots stay."""
        return Latents(self.values * (self.indices < index), self.indices, self.d_sae)


@dataclass(frozen=True)
class Slots:
    """Entries of a dense [batch, d_sae] matrix that are kept, in as many slots a row as the fullest row needs."""

    indices: Int[Tensor, "*batch k_max"]
    """Numbers of the latents that fill a row's slots."""
    taken: Bool[Tensor, "*batch k_max"]
    """Which slots hold a latent, and are not left over."""

    def of(self, pre: PreActivations, *, empty: float = 0.0) -> Float[Tensor, "*batch k_max"]:
        """The kept entries, and ``empty`` in empty slots; the gradient flows back to the kept entries alone."""
        return pre.at(self.indices).masked_fill(~self.taken, empty)

    def only(
        self, kept: Bool[Tensor, "*batch k_max"], values: Float[Tensor, "*batch k_max"]
    ) -> "tuple[Slots, Float[Tensor, '*batch fewer']]":
        """Fewer of them, side by side again, with what ``values`` has there and 0 in empty slots."""
        mask, width = kept & self.taken, kept.shape[-1]
        rows, slots = mask.reshape(-1, width).nonzero(as_tuple=True)
        fewer = _packed(rows, self.indices.reshape(-1, width)[rows, slots], tuple(kept.shape))
        packed = values.new_zeros(fewer.taken.shape)
        packed[fewer.taken] = values[mask]
        return fewer, packed


GROUP = 32
"""Most entries of a row whose maximum is looked at first."""


def slots_where(keep: Bool[Tensor, "*batch d_sae"]) -> Slots:
    """Slots of the entries where ``keep`` holds."""
    mask = keep.reshape(-1, keep.shape[-1])
    rows, columns = mask.nonzero(as_tuple=True)
    return _packed(rows, columns, keep.shape)


def slots_above(dense: Float[Tensor, "*batch d_sae"], bound: Float[Tensor, ""]) -> Slots:
    """Slots of the entries that are at least ``bound``, which few are: looked for in groups whose maximum is."""
    d_sae = dense.shape[-1]
    size = math.gcd(d_sae, GROUP)
    groups = dense.reshape(-1, size, d_sae // size)
    row, group = (groups.amax(1) >= bound).nonzero(as_tuple=True)
    pair, member = (groups[row, :, group] >= bound).nonzero(as_tuple=True)
    return _packed(row[pair], member * groups.shape[2] + group[pair], dense.shape)


def _packed(rows: Int[Tensor, " kept"], columns: Int[Tensor, " kept"], shape: tuple[int, ...]) -> Slots:
    """Slots of entries whose rows do not fall."""
    n = math.prod(shape[:-1])
    counts = torch.bincount(rows, minlength=n)
    slots = max(1, int(counts.max())) if n else 1
    # Entries of one row lie side by side in `rows`; how far each is behind the first of its row is its slot.
    position = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    indices = rows.new_zeros(n, slots)
    indices[rows, position] = columns
    taken = torch.arange(slots, device=rows.device) < counts[:, None]
    shape = (*shape[:-1], slots)
    return Slots(indices.reshape(shape), taken.reshape(shape))
