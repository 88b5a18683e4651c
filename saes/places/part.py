"""One part of a dictionary over places: an SAE's encoder and latents, whose decoder rows reach over several places."""

from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saes.activations import Activation
from saes.sae import SAE


class Part(SAE):
    """An SAE or transcoder of the concatenated places that it reads.

    Its decoder rows are the rows for all places that it writes, one behind another: first its ``own``, whose bias
    (``b_dec``) and skip connection it has, then the later ones (``d_later`` columns), whose bias is another part's.

    Args:
        read: Widths of the places read.
        written: Widths of the places written.
        n_own: How many of them are its own; the others come after these.

    Two lists of scales remember what activations were multiplied with in training, after ``fold_place_scales``:
    ``norm_scales`` of the places written, so that ``decoder_norms`` stay as they were and places with large activations
    do not own them, and ``read_scales`` of the columns read, for selections that compare the input with those norms.
        norms_add_up: ``decoder_norms`` is the sum of the norms at single places (a crosscoder: Lindsey et al. 2024;
            Minder et al., arXiv 2504.02922), else the norm of the concatenation (a CLT: Ameisen et al. 2025).

    Example:
        >>> import saes, torch
        >>> part = saes.embedded_transcoders().parts[0]
        >>> part.read_widths, part.written_widths, part.place_norms().shape
        ((96,), (96,), torch.Size([1, 1024]))
        >>> part(torch.zeros(5, 96)).shape
        torch.Size([5, 96])
    """

    def __init__(
        self,
        read: tuple[int, ...],
        d_sae: int,
        activation: Activation,
        *,
        written: tuple[int, ...],
        n_own: int,
        norms_add_up: bool,
        **options: Any,
    ) -> None:
        self.read_widths, self.written_widths, self.norms_add_up = read, written, norms_add_up
        self.norm_scales = (1.0,) * len(written)
        self.read_scales = (1.0,) * len(read)
        self.d_later = sum(written[n_own:])
        super().__init__(sum(read), d_sae, activation, d_out=sum(written[:n_own]), **options)

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

    def scaled_rows(self) -> Float[Tensor, "d_sae columns"]:
        """Decoder rows, each place's columns times its ``norm_scales``."""
        return self.W_dec * self._columns(self.written_widths, self.norm_scales).to(self.W_dec)

    def in_units_of_norms(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The centred input times ``read_scales``, where these are not 1."""
        centred = self.centred(x)
        if set(self.read_scales) == {1.0}:
            return centred
        return centred * self._columns(self.read_widths, self.read_scales).to(centred)

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Of each latent's decoder row; see ``norms_add_up``."""
        if self.norms_add_up:
            return self.place_norms().sum(0)
        # At scales of 1, in training, without a step over the places, which would round once more.
        return super().decoder_norms() if set(self.norm_scales) == {1.0} else self.place_norms().norm(dim=0)

    @torch.no_grad()
    def fold_place_scales(self, read: tuple[float, ...], written: tuple[float, ...]) -> None:
        """In place: what was trained on activations multiplied by these scales, at every place read and written, takes
        and gives raw ones."""
        of_inputs, columns = self._columns(self.read_widths, read), self._columns(self.written_widths, written)
        own = columns[: self.d_out]
        for weights, factors in ((self.W_dec, columns), (self.b_dec, own)):
            weights.div_(factors.to(weights))
        self.W_enc.mul_(of_inputs[:, None].to(self.W_enc))
        if self.skip:
            self.W_skip.mul_((of_inputs / own[:, None]).to(self.W_skip))
        self.norm_scales = tuple(before * scale for before, scale in zip(self.norm_scales, written, strict=True))
        self.read_scales = tuple(before * scale for before, scale in zip(self.read_scales, read, strict=True))

    def _columns(self, widths: tuple[int, ...], scales: tuple[float, ...]) -> Float64[Tensor, " columns"]:
        wide = self.W_enc.new_empty(0, dtype=torch.float64)
        return torch.cat([wide.new_full((width,), scale) for width, scale in zip(widths, scales, strict=True)])

    def at_place(self, number: int) -> Float[Tensor, "d_sae _"]:
        """Decoder rows for one of the places that it writes, counted from its first."""
        begin = [0, *accumulate(self.written_widths)][number]
        return self.W_dec[:, begin : begin + self.written_widths[number]]
