"""Every kind of dictionary with random weights, inputs for it, and what it computes written out densely."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from interp import Site
from saes.activations import Activation
from saes.places import Dictionary, Layout
from tests.saes.sources import MemorySource

WIDTHS = (5, 3, 4)
D_SAE = 12
READS, WRITES = ("in0", "in1", "in2"), ("out0", "out1", "out2")
DTYPE = torch.float64
KINDS: dict[str, dict[str, object]] = {
    "transcoders": {},
    "transcoders-skip": {"skip": True},
    "clt": {},
    "clt-skip": {"skip": True},
    "crosscoder": {},
    "crosscoder-plain-input": {"subtract_b_dec": False},
}


def random_dictionary(
    name: str, activation: Activation, *, dtype: torch.dtype = DTYPE, budget: str = "part", d_sae: int = D_SAE
) -> Dictionary:
    """Every weight random, thresholds positive."""
    kind = name.split("-")[0]
    layout = Layout(kind, READS, READS if kind == "crosscoder" else WRITES)
    dictionary = Dictionary(
        layout,
        (WIDTHS, WIDTHS),
        d_sae=d_sae,
        activation=activation,
        provenance={"source": {"model": "m"}},
        dtype=dtype,
        budget=budget,  # type: ignore[arg-type]
        **KINDS[name],  # type: ignore[arg-type]
    )
    return randomised(dictionary, seed=3)


@torch.no_grad()
def randomised(dictionary: Dictionary, *, seed: int) -> Dictionary:
    """In place: every weight random, thresholds positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in dictionary.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        if name.endswith("threshold"):
            parameter.abs_()
    return dictionary


def inputs(n: int = 9, *, seed: int = 4, dtype: torch.dtype = DTYPE) -> tuple[Tensor, ...]:
    """Rows at every place."""
    generator = torch.Generator().manual_seed(seed)
    return tuple((2 * torch.randn(n, width, generator=generator, dtype=DTYPE)).to(dtype) for width in WIDTHS)


def dense_decode(dictionary: Dictionary, dense: Sequence[Tensor], xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The sum over parts and places by their definition, one einsum for each pair of part and place."""
    out = [torch.zeros(len(xs[0]), width, dtype=xs[0].dtype) for width in WIDTHS]
    for number, (part, f) in enumerate(zip(dictionary.parts, dense, strict=True)):
        places = {"transcoders": [number], "clt": list(range(number, 3)), "crosscoder": [0, 1, 2]}
        begin = 0
        for place in places[dictionary.layout.kind]:
            rows = part.W_dec[:, begin : begin + WIDTHS[place]]
            out[place] = out[place] + torch.einsum("ni,id->nd", f, rows)
            begin += WIDTHS[place]
    ends = [0, *accumulate(WIDTHS)]
    for place in range(3):
        if dictionary.layout.kind == "crosscoder":
            out[place] = out[place] + dictionary.parts[0].b_dec[ends[place] : ends[place + 1]]
        else:
            part = dictionary.parts[place]
            out[place] = out[place] + part.b_dec
            if part.skip:
                out[place] = out[place] + torch.einsum("od,nd->no", part.W_skip, xs[place])
    return tuple(out)


def dense_pre(dictionary: Dictionary, xs: Sequence[Tensor]) -> list[Tensor]:
    """Pre-activations of every part by their definition."""
    found = []
    for number, part in enumerate(dictionary.parts):
        x = torch.cat(list(xs), -1) if dictionary.layout.kind == "crosscoder" else xs[number]
        x = x - part.b_dec if part.subtract_b_dec else x
        pre = torch.einsum("nd,di->ni", x, part.W_enc)
        found.append(pre + part.b_enc if part.activation.uses_b_enc else pre)
    return found


@dataclass
class PlacesSource:
    """Rows at several places in memory; see ``MemorySource``."""

    at: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.at.values())))

    def batches_of(
        self, sites: Sequence[Site], batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[dict[Site, Tensor]]:
        """See ``MemorySource``."""
        for batch in MemorySource(torch.arange(len(self))).batches_of([Site.parse("x")], batch_size, seed, start):
            (rows,) = batch.values()
            yield {site: self.at[str(site)][rows] for site in sites}
