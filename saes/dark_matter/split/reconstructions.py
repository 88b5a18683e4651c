"""Rows to decompose: activations and an SAE's reconstructions of them, in memory or streamed from a store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.sites.site import Site
from saes.dark_matter.split.kept_tokens import KeptTokens
from saes.pursuit import gradient_pursuit
from saes.sae import SAE


class Reconstruction(NamedTuple):
    """Of some rows."""

    x_hat: Float[Tensor, "n d"]
    l0: Int[Tensor, " n"] | None
    """Active latents of each row, where they are known."""


class Block(NamedTuple):
    """Some rows, whole in memory."""

    which: Int[Tensor, " m"]
    """Their numbers among all rows."""
    documents: Int[Tensor, " m"]
    x: Float[Tensor, "m d"]
    x_hat: Float[Tensor, "m d"]
    l0: Int[Tensor, " m"] | None

    @property
    def error(self) -> Float[Tensor, "m d"]:
        """``x - x_hat``, in float64. (The paper's files on disk hold the opposite sign.)"""
        return self.x.double() - self.x_hat.double()


@runtime_checkable
class Rows(Protocol):
    """What everything in this package measures on."""

    @property
    def documents(self) -> Int[Tensor, " n"]:
        """Document of each row."""
        ...

    @property
    def d(self) -> int:
        """Width of an activation."""
        ...

    def blocks(self, chosen: Bool[Tensor, " n"] | None = None) -> Iterator[Block]:
        """The rows where ``chosen`` holds (all by default), in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowsInMemory:
    """Given tensors."""

    x: Float[Tensor, "n d"]
    """Activations, a row a token."""
    x_hat: Float[Tensor, "n d"]
    """What the SAE makes of them."""
    documents: Int[Tensor, " n"]
    """Number of the document that each token is of."""
    positions: Int[Tensor, " n"] | None = None
    """Position of each token in its row, where it is known."""
    l0: Int[Tensor, " n"] | None = None
    """Active latents of each token, where they are known."""

    @property
    def d(self) -> int:
        """Width of an activation."""
        return self.x.shape[1]

    def blocks(self, chosen: Bool[Tensor, " n"] | None = None) -> Iterator[Block]:
        """The rows where ``chosen`` holds, as one block.

        Raises:
            ValueError: a row is not finite.
        """
        which = torch.arange(len(self.x)) if chosen is None else chosen.nonzero()[:, 0]
        l0 = None if self.l0 is None else self.l0[which]
        block = Block(which, self.documents[which], self.x[which], self.x_hat[which], l0)
        for name, values in (("x", block.x), ("x_hat", block.x_hat)):
            finite = torch.isfinite(values).all(-1)
            if not finite.all():
                named = ", ".join(map(self._name, which[~finite][:5].tolist()))
                raise ValueError(f"{name} is not finite in {int((~finite).sum())} rows: {named}; leave them out")
        yield block

    def _name(self, row: int) -> str:
        position = "" if self.positions is None else f" position {int(self.positions[row])}"
        return f"row {row} (document {int(self.documents[row])}{position})"


@dataclass(frozen=True, kw_only=True)
class RowsOfSAE:
    """A store's tokens as one SAE reconstructs them, computed anew in every pass: nothing of size n x d is kept."""

    kept: KeptTokens
    """The tokens, and the store that they are in."""
    site: Site
    """Site of the store that the SAE reads."""
    reconstruct: Callable[[Float[Tensor, "n d"]], Reconstruction]
    """Makes a reconstruction of rows of activations."""

    @classmethod
    def by_encoder(cls, kept: KeptTokens, sae: SAE, site: Site) -> "RowsOfSAE":
        """The SAE as it was trained."""

        @torch.no_grad()
        def reconstruct(x: Float[Tensor, "n d"]) -> Reconstruction:
            x = x.to(sae.W_enc)
            latents = sae.encode(x)
            return Reconstruction(sae.decode(latents, x).cpu(), latents.l0.cpu())

        return cls(kept=kept, site=site, reconstruct=reconstruct)

    @classmethod
    def by_pursuit(cls, kept: KeptTokens, sae: SAE, site: Site) -> "RowsOfSAE":
        """Its decoder with codes by gradient pursuit: as many steps a token as the encoder has active latents."""

        @torch.no_grad()
        def reconstruct(x: Float[Tensor, "n d"]) -> Reconstruction:
            x = x.to(sae.W_enc)
            codes = gradient_pursuit(sae.normalised(x), sae.W_dec, sae.encode(x).l0, b_dec=sae.b_dec)
            return Reconstruction(sae.decode(codes, x).cpu(), codes.l0.cpu())

        return cls(kept=kept, site=site, reconstruct=reconstruct)

    @property
    def documents(self) -> Int[Tensor, " n"]:
        """Document of each row."""
        return self.kept.documents

    @property
    def d(self) -> int:
        """Width of an activation."""
        return self.kept.store.width(self.site)

    def blocks(self, chosen: Bool[Tensor, " n"] | None = None) -> Iterator[Block]:
        """The rows where ``chosen`` holds, some thousands at a time.

        Raises:
            ValueError: an activation or its reconstruction is not finite; document and position are named.
        """
        for which, at in self.kept.blocks([self.site], chosen):
            x = at[self.site]
            x_hat, l0 = self.reconstruct(x)
            self.kept.check_finite(x_hat, which, f"the SAE's reconstruction at {self.site}")
            yield Block(which, self.documents[which], x, x_hat, l0)
