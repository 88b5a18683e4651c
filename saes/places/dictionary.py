"""A sparse dictionary over several places: transcoder set, cross-layer transcoder or crosscoder.

    latents_p = select(x[reads of p] @ W_enc_p + b_enc_p)                       for every part p
    x_hat_s   = sum over parts p that write s of latents_p @ W_dec_p[s], + b_dec_s (+ W_skip_s x_s)

What a part reads and writes is ``saes.places.layout``; encoder, activation and decoder are an SAE's. Everything in
between stays sparse: a part's latents are gathered once for all places that they write, since the decoder rows for
these lie side by side, and the gradient sorts them once.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.arguments.kinds import require
from saes.activations import Activation, BatchTopK
from saes.kernels.encode import pre_activations
from saes.latents import Latents
from saes.places.layout import Layout, PartPlaces
from saes.places.part import Part
from saes.places.shared_budget import select_together
from saes.sae import SAE


class Dictionary(nn.Module):
    """Parts, and which places they read and write. Fresh weights are zero: see ``initialise``.

    Args:
        layout: Kind, and names of the places.
        widths: Of the places read, and of those written.
        d_sae: Latents of every part.
        activation: Of every part.
        skip: Each part adds ``x @ W_skip.T`` at its own place; not for crosscoders.
        subtract_b_dec: Whether b_dec is taken from the input; for crosscoders alone, whose default it is.
        budget: BatchTopK in training: ``part``, every part keeps the k · rows largest of its own; ``all``, all together
            keep k · parts · rows. After training one threshold a part, or one for all, takes its place.
        provenance: Where it comes from, as JSON.

    Raises:
        ValueError: sizes, kind, and options that do not fit together.

    Example:
        >>> import torch
        >>> from saes import TopK
        >>> from saes.places import Dictionary, Layout
        >>> layout = Layout("clt", ("in0", "in1"), ("out0", "out1"))
        >>> clt = Dictionary(layout, ((8, 8), (8, 8)), d_sae=32, activation=TopK(4))
        >>> clt = clt.initialise(seed=0, means=[torch.zeros(8)] * 2)
        >>> latents = clt.encode([torch.ones(5, 8), torch.ones(5, 8)])
        >>> [tuple(x_hat.shape) for x_hat in clt.decode(latents)]
        [(5, 8), (5, 8)]
        >>> [part.W_dec.shape[1] for part in clt.parts]
        [16, 8]
    """

    def __init__(
        self,
        layout: Layout,
        widths: tuple[Sequence[int], Sequence[int]],
        *,
        d_sae: int,
        activation: Activation,
        skip: bool = False,
        subtract_b_dec: bool | None = None,
        budget: str = "part",
        provenance: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        require(layout, Layout, what="a layout", fix="saes.Layout('clt', reads, writes)")
        self.layout, self.budget, self.provenance = layout, budget, provenance or {}
        self.read_widths, self.written_widths = tuple(widths[0]), tuple(widths[1])
        subtract_b_dec = layout.autoencodes if subtract_b_dec is None else subtract_b_dec
        self._check(skip, subtract_b_dec, activation)
        self.parts: nn.ModuleList = nn.ModuleList(
            Part(
                tuple(self.read_widths[i] for i in places.reads),
                d_sae,
                activation,
                written=tuple(self.written_widths[i] for i in places.writes),
                n_own=len(places.own),
                norms_add_up=layout.kind == "crosscoder",
                subtract_b_dec=subtract_b_dec,
                skip=skip,
                dtype=dtype,
            )
            for places in layout.parts
        )
        self.eval()

    def _check(self, skip: bool, subtract_b_dec: bool, activation: Activation) -> None:
        layout = self.layout
        for name, places, widths in (
            ("read", layout.reads, self.read_widths),
            ("written", layout.writes, self.written_widths),
        ):
            if len(places) != len(widths):
                raise ValueError(f"{len(places)} places are {name}, but there are {len(widths)} widths of them")
        if self.layout.autoencodes and self.read_widths != self.written_widths:
            raise ValueError(f"the same places are read at widths {self.read_widths}, written at {self.written_widths}")
        if skip and layout.kind == "crosscoder":
            raise ValueError("skip is for transcoders and cross-layer transcoders: a crosscoder would copy its input")
        if subtract_b_dec and layout.kind != "crosscoder":
            raise ValueError(f"a {layout.kind} reads other places than it writes: it cannot subtract b_dec")
        if self.budget not in ("part", "all"):
            raise ValueError(f"budget is {self.budget!r}; it is 'part' or 'all'")
        if self.budget == "all" and not isinstance(activation, BatchTopK):
            raise ValueError(f"budget='all' is for batchtopk and matryoshka; {activation.name} has no budget to share")

    @property
    def activation(self) -> Activation:
        """Of every part."""
        return self._first.activation

    @property
    def d_sae(self) -> int:
        """Latents of every part."""
        return self._first.d_sae

    @property
    def group(self) -> Any:
        """Processes that train it together."""
        return self._first.group

    @property
    def _first(self) -> Part:
        first = self.parts[0]
        assert isinstance(first, Part)
        return first

    def placed(self) -> list[tuple[Part, PartPlaces]]:
        """Every part with its places."""
        return list(zip(self.parts, self.layout.parts, strict=True))  # type: ignore[arg-type]

    def initialise(self, *, seed: int, means: Sequence[Float[Tensor, " _"]]) -> "Dictionary":
        """Every part as a transcoder (or SAE) alone, from seeds ``seed``, ``seed`` + 1000, ..; a CLT's latents write
        nothing to later places yet. ``means``: of the places written, where biases start."""
        for number, (part, places) in enumerate(self.placed()):
            part.initialise(seed=seed + 1000 * number, mean=torch.cat([means[i] for i in places.own]))
        return self

    def part_input(self, places: PartPlaces, xs: Sequence[Float[Tensor, "*batch _"]]) -> Float[Tensor, "*batch d_in"]:
        """What a part reads: its places side by side."""
        return xs[places.reads[0]] if len(places.reads) == 1 else torch.cat([xs[i] for i in places.reads], dim=-1)

    def encode(self, xs: Sequence[Float[Tensor, "*batch _"]]) -> tuple[Latents, ...]:
        """Sparse latents of every part, from the activations at every place read, in the layout's order.

        Raises ValueError for rows that are not finite, outside training.
        """
        self._check_places("read", xs, self.layout.reads, self.read_widths)
        inputs = [self.part_input(places, xs) for _, places in self.placed()]
        if self.budget == "part" or not self.training:
            return tuple(part.encode(x) for (part, _), x in zip(self.placed(), inputs, strict=True))
        parts = [part for part, _ in self.placed()]
        pre = [
            pre_activations(x, p.W_enc, p.b_enc, p.b_dec if p.subtract_b_dec else None)
            for p, x in zip(parts, inputs, strict=True)
        ]
        return select_together(parts, pre)

    def decode(
        self,
        latents: Sequence[Latents],
        xs: Sequence[Float[Tensor, "*batch _"]] | None = None,
        *,
        frozen: bool = False,
    ) -> tuple[Float[Tensor, "*batch _"], ...]:
        """The reconstruction at every place written; skip connections need ``xs``.

        ``frozen``: the gradient reaches the latents alone, not the decoders.
        """
        if len(latents) != len(self.parts):
            raise ValueError(f"there are {len(self.parts)} parts, but latents of {len(latents)}")
        if self._first.skip and xs is None:
            raise ValueError("this dictionary has skip connections: decode needs the inputs too, decode(latents, xs)")
        sums: list[Tensor | None] = [None] * len(self.layout.writes)
        for (part, places), its in zip(self.placed(), latents, strict=True):
            pieces = part.written(its, frozen=frozen).split(part.written_widths, dim=-1)
            for place, piece in zip(places.writes, pieces, strict=True):
                before = sums[place]
                sums[place] = piece if before is None else before + piece
        return tuple(
            self.with_bias(place, total, None if xs is None else xs[place], frozen=frozen)
            for place, total in enumerate(sums)
            if total is not None
        )

    def with_bias(
        self,
        place: int,
        total: Float[Tensor, "*batch d"],
        x: Float[Tensor, "*batch _"] | None,
        *,
        frozen: bool = False,
    ) -> Float[Tensor, "*batch d"]:
        """What the latents write at one place, plus its bias and the skip connection from ``x``, its layer's input."""
        part, places = next((part, places) for part, places in self.placed() if place in places.own)
        b_dec = part.b_dec.split([self.written_widths[i] for i in places.own])[places.own.index(place)]
        total = total + (b_dec.detach() if frozen else b_dec)
        if not part.skip:
            return total
        assert x is not None
        return total + x @ (part.W_skip.detach() if frozen else part.W_skip).T

    def forward(self, xs: Sequence[Float[Tensor, "*batch _"]]) -> tuple[Float[Tensor, "*batch _"], ...]:
        """The reconstruction at every place written."""
        return self.decode(self.encode(xs), xs)

    def after_step(self, latents: Sequence[Latents]) -> None:
        """What every part's activation keeps in order after an optimiser step; called without gradients."""
        if self.budget == "part":
            for (part, _), its in zip(self.placed(), latents, strict=True):
                part.activation.after_step(part, its)
            return
        for (part, _), smallest in zip(self.placed(), self.smallest_kept(latents), strict=True):
            assert isinstance(part.activation, BatchTopK)
            part.activation.move_threshold(part, smallest)

    def smallest_kept(self, latents: Sequence[Latents]) -> Float[Tensor, " parts"]:
        """BatchTopK: the smallest score among each part's latents, or among all latents where parts share a budget."""
        activation = self.activation
        assert isinstance(activation, BatchTopK)
        smallest = torch.stack(
            [activation.smallest_kept(part, its) for (part, _), its in zip(self.placed(), latents, strict=True)]
        )
        return smallest if self.budget == "part" else smallest.min().expand_as(smallest)

    @torch.no_grad()
    def fold_scales(self, reads: Sequence[float], writes: Sequence[float]) -> "Dictionary":
        """In place: what was trained on places multiplied by these scales becomes a dictionary of raw activations, with
        the same latents."""
        if self.layout.autoencodes and tuple(reads) != tuple(writes):
            raise ValueError(f"input and output share b_dec: scales {reads} and {writes} must be equal")
        for part, places in self.placed():
            part.fold_place_scales(tuple(reads[i] for i in places.reads), tuple(writes[i] for i in places.writes))
        return self

    def columns(self, places: range) -> slice:
        """Where a range of written places is among all of them side by side."""
        ends = [0, *accumulate(self.written_widths)]
        return slice(ends[places.start], ends[places.stop])

    def _check_places(self, verb: str, values: Sequence[Tensor], names: Sequence[str], widths: Sequence[int]) -> None:
        found = [value.shape[-1] for value in values]
        if found != list(widths):
            wanted = ", ".join(f"{name} [.., {width}]" for name, width in zip(names, widths, strict=True))
            raise ValueError(f"activations have widths {found}; the places {verb} are {wanted}")


def parts_of(sae: "SAE | Dictionary") -> list[SAE]:
    """The parts of a dictionary; an SAE is its own only one.

    Example:
        >>> import torch
        >>> from saes import TopK
        >>> from saes.places import Dictionary, Layout, parts_of
        >>> layout = Layout("transcoders", ("blocks.0.mlp.hook_in",), ("blocks.0.hook_mlp_out",))
        >>> dictionary = Dictionary(layout, ((8,), (8,)), d_sae=16, activation=TopK(2))
        >>> dictionary = dictionary.initialise(seed=0, means=[torch.zeros(8)])
        >>> [part.d_sae for part in parts_of(dictionary)]
        [16]
    """
    return [sae] if isinstance(sae, SAE) else [part for part, _ in sae.placed()]
