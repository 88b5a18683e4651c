"""Which latents of a crosscoder of two models are one model's own, and whether that is so: the table of both.

The relative norm of a latent is the share of its decoder's norm that lies in the second model. With an L1 loss, small
norms are partly artefacts: a latent may be shrunk away in one model though it is there, or be written by others. So
each latent is held against the activations themselves, by latent scaling (Minder et al., arXiv 2504.02922): the factor

    beta = argmin_b sum over tokens || b f_j d_j - y ||^2 = sum f_j <d_j, y> / (||d_j||^2 sum f_j^2)

with d_j its direction in the model where its norm is larger, and y either that model's or the other model's
reconstruction, or what the reconstruction without latent j leaves of the activation (the error). A latent that is one
model's own has factors near 0 in the other. All is in the units of training, in which both models are alike.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.sites.site import Site
from interp.terminal.short_repr import short_repr
from saes.kernels.backend import backend_for
from saes.places.dictionary import Dictionary

SHARED = (0.3, 0.7)
"""Relative norms between which a latent counts as shared."""
CONFIRMED_BELOW = 0.3
"""Both ratios of factors below which latent scaling confirms that a latent is one model's own; our choice."""


@runtime_checkable
class PlacesSource(Protocol):
    """Rows at several places, as ``saes.places.stores.SameRows`` or an ``ActivationStore`` has them."""

    def batches_of(self, sites: Any, batch_size: int, seed: int = 0, start: int = 0) -> Any:
        """See ``interp.ActivationStore.batches_of``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Of every latent; the first model is the first place, the second the other.

    Example:
        >>> import torch
        >>> from saes.evaluation import Sharing
        >>> found = Sharing(
        ...     places=("base", "chat"),
        ...     tokens=1_000,
        ...     relative_norm=torch.tensor([0.5, 0.9, 0.95, 0.5]),
        ...     active=torch.tensor([80, 20, 30, 0]),
        ...     of_reconstruction=torch.tensor([[1.0, 0.1, 0.9, torch.nan], [1.0, 1.0, 1.0, torch.nan]]),
        ...     of_error=torch.tensor([[1.0, 0.1, 0.9, torch.nan], [1.0, 1.0, 1.0, torch.nan]]),
        ... )
        >>> found.rows()  # how many, and how many of them latent scaling confirms
        [('only base', 0, 0), ('shared', 1, None), ('only chat', 2, 1), ('never active', 1, None)]
    """

    places: tuple[str, str]
    """Names of the two places."""
    tokens: int
    """How many tokens were looked at."""
    relative_norm: Float[Tensor, " d_sae"]
    """Share of the decoder's norm in the second model, 0 to 1."""
    active: Int[Tensor, " d_sae"]
    """Tokens on which it is active; where that is 0 the factors are NaN."""
    of_reconstruction: Float[Tensor, "2 d_sae"]
    """Factor with which it explains the reconstruction, in each model."""
    of_error: Float[Tensor, "2 d_sae"]
    """The same of what the reconstruction without it leaves."""

    __repr__ = short_repr

    @property
    def ratios(self) -> Float[Tensor, "2 d_sae"]:
        """Factor in the model where the norm is smaller over that in the other, of reconstruction and of error."""
        stronger = (self.relative_norm > 0.5).long()
        every = torch.arange(len(stronger))
        return torch.stack(
            [f[1 - stronger, every] / f[stronger, every] for f in (self.of_reconstruction, self.of_error)]
        )

    @property
    def exclusive(self) -> tuple[Bool[Tensor, " d_sae"], Bool[Tensor, " d_sae"]]:
        """Active latents whose norm says that they are the first model's own, and the second's."""
        seen = self.active > 0
        return seen & (self.relative_norm < SHARED[0]), seen & (self.relative_norm > SHARED[1])

    @property
    def confirmed(self) -> Bool[Tensor, " d_sae"]:
        """Exclusive latents of either model of which latent scaling says the same, by both ratios."""
        first, second = self.exclusive
        return (first | second) & (self.ratios.abs() < CONFIRMED_BELOW).all(0)

    def rows(self) -> list[tuple[str, int, int | None]]:
        """The table: which latents, how many, and how many of them latent scaling confirms."""
        first, second = self.exclusive
        seen = self.active > 0
        return [
            (f"only {self.places[0]}", int(first.sum()), int((first & self.confirmed).sum())),
            ("shared", int((seen & ~first & ~second).sum()), None),
            (f"only {self.places[1]}", int(second.sum()), int((second & self.confirmed).sum())),
            ("never active", int((~seen).sum()), None),
        ]


@torch.no_grad()
def sharing(
    crosscoder: Dictionary, source: PlacesSource, *, max_tokens: int = 100_000, batch_size: int = 4096
) -> Sharing:
    """Measure a crosscoder of two places on (the first, in a shuffled order of) a source's rows.

    Raises:
        ValueError: another kind of dictionary, or another number of places.

    Example:
        >>> import interp, saes, torch
        >>> from saes.evaluation import sharing
        >>> model, places = interp.load_model("embedded"), ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> store = interp.cache_activations(model, rows, places, "acts")
        >>> layout = saes.Layout("crosscoder", places, places)
        >>> crosscoder = saes.Dictionary(layout, ((96, 96), (96, 96)), d_sae=128, activation=saes.TopK(8))
        >>> found = sharing(crosscoder.initialise(seed=0, means=[torch.zeros(96)] * 2), store)
        >>> found.active.sum().item() / found.tokens, found.relative_norm.shape
        (8.0, torch.Size([128]))
    """
    names = crosscoder.layout.reads
    if crosscoder.layout.kind != "crosscoder" or len(names) != 2:
        raise ValueError(
            f"this is a {crosscoder.layout.kind} over {len(names)} places; shared and exclusive latents are those of a"
            " crosscoder of two"
        )
    (part, _) = crosscoder.placed()[0]
    if crosscoder.read_widths[0] != crosscoder.read_widths[1]:
        raise ValueError(f"places of widths {crosscoder.read_widths}: a direction of one is none of the other's")
    norms = part.place_norms()
    decoders = torch.stack([part.at_place(i) * part.norm_scales[i] for i in range(2)])
    relative = norms[1] / norms.sum(0).clamp_min(torch.finfo(norms.dtype).tiny)
    directions = torch.where(relative[:, None] > 0.5, decoders[1], decoders[0]).contiguous()
    places = [_place(source, name) for name in names]
    d_sae, backend, tokens = crosscoder.d_sae, backend_for(directions), 0
    squares, active = torch.zeros(d_sae, dtype=torch.float64), torch.zeros(d_sae, dtype=torch.int64)
    products = torch.zeros(2, 2, d_sae, dtype=torch.float64)  # of reconstruction and of error, in each model
    for batch in source.batches_of(places, batch_size):
        xs = [batch[place][: max_tokens - tokens].to(directions) for place in places]
        tokens += len(xs[0])
        (latents,) = crosscoder.encode(xs)
        f, indices = latents.values.double(), latents.indices.flatten()
        squares.index_add_(0, indices, f.square().flatten())
        active += torch.bincount(indices[latents.values.flatten() != 0], minlength=d_sae)
        for model, (x, x_hat) in enumerate(zip(xs, crosscoder.decode((latents,), xs), strict=True)):
            scale = part.norm_scales[model]
            bias = part.b_dec.split(part.written_widths)[model]
            for kind, rows in enumerate((x_hat - bias, x - x_hat)):
                along = backend.gather_dot(latents.indices, (rows * scale).contiguous(), directions).double()
                products[kind, model].index_add_(0, indices, (f * along).flatten())
        if tokens >= max_tokens:
            break
    lengths = directions.double().square().sum(-1)
    factors = products / (lengths * squares)
    own = torch.stack([(decoder.double() * directions.double()).sum(-1) / lengths for decoder in decoders])
    return Sharing(
        places=(names[0], names[1]),
        tokens=tokens,
        relative_norm=relative,
        active=active,
        of_reconstruction=factors[0].float(),
        of_error=(factors[1] + own).float(),  # the latent's own part is put back into the error
    )


def _place(source: Any, name: str) -> Any:
    return source.place(name) if hasattr(source, "place") else Site.parse(name)
