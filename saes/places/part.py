"""One part of a dictionary over places: an SAE's encoder and latents, whose decoder rows reach over several places."""

from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.activations import Activation
from saes.sae import SAE


class Part(SAE):
    """An SAE or transcoder of the concatenated places that it reads.

    Its decoder rows are the rows for all places that it writes, one behind another: first its ``own``, whose bias
    (``b_dec``) and skip connection it has, then the later ones (``d_later`` columns), whose bias is another part's.

    Args:
        written: Widths of the places written.
        n_own: How many of them are its own; the others come after these.
        norm_scales: For each place written what ``decoder_norms`` multiplies its rows with: the scales of training, so
            that places with large activations do not own the norm. Set by ``fold_place_scales``.
        norms_add_up: ``decoder_norms`` is the sum of the norms at single places (a crosscoder: Lindsey et al. 2024;
            Minder et al., arXiv 2504.02922), else the norm of the concatenation (a CLT: Ameisen et al. 2025).
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        activation: Activation,
        *,
        written: tuple[int, ...],
        n_own: int,
        norms_add_up: bool,
        norm_scales: tuple[float, ...] | None = None,
        **options: Any,
    ) -> None:
        self.written_widths, self.norms_add_up = written, norms_add_up
        self.norm_scales = (1.0,) * len(written) if norm_scales is None else norm_scales
        self.d_later = sum(written[n_own:])
        super().__init__(d_in, d_sae, activation, d_out=sum(written[:n_own]), **options)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return super()._shapes() | {"W_dec": (self.d_sae, self.d_out + self.d_later)}

    @torch.no_grad()
    def initialise(self, *, seed: int, mean: Float[Tensor, " d_out"]) -> "Part":
        """As an SAE's; at later places latents write nothing yet."""
        self.W_dec.zero_()
        super().initialise(seed=seed, mean=mean)
        return self

    def place_norms(self) -> Float[Tensor, "places d_sae"]:
        """Norm of each latent's decoder row at each place that it writes, times ``norm_scales``."""
        at_places = zip(self.W_dec.split(self.written_widths, -1), self.norm_scales, strict=True)
        return torch.stack([rows.norm(dim=-1) * scale for rows, scale in at_places])

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Of each latent's decoder row; see ``norms_add_up``."""
        if self.norms_add_up:
            return self.place_norms().sum(0)
        # At scales of 1, in training, without a step over the places, which would round once more.
        return super().decoder_norms() if set(self.norm_scales) == {1.0} else self.place_norms().norm(dim=0)

    @torch.no_grad()
    def fold_place_scales(self, read: Float[Tensor, " d_in"], written: tuple[float, ...]) -> None:
        """In place: what was trained on scaled activations becomes the same of raw ones.

        Args:
            read: What each column of the input was multiplied with.
            written: What each place written was multiplied with.
        """
        columns = torch.cat([read.new_full((w,), s) for w, s in zip(self.written_widths, written, strict=True)])
        own = columns[: self.d_out]
        self.W_enc.mul_(read[:, None])
        self.W_dec.div_(columns)
        self.b_dec.div_(own)
        if self.skip:
            self.W_skip.mul_(read).div_(own[:, None])
        self.norm_scales = tuple(before * scale for before, scale in zip(self.norm_scales, written, strict=True))

    def at_place(self, number: int) -> Float[Tensor, "d_sae _"]:
        """Decoder rows for one of the places that it writes, counted from its first."""
        begin = [0, *accumulate(self.written_widths)][number]
        return self.W_dec[:, begin : begin + self.written_widths[number]]
