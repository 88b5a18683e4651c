"""Which places each part of a dictionary reads and writes: all in which the kinds differ.

A dictionary over places is a row of parts. A part is an encoder that reads some of the places and latents of its own
that write to some of the places, one after another in both lists:

- ``transcoders``: part l reads the input of layer l's MLP and writes its output (Dunefsky et al., arXiv 2406.11944).
- ``clt``, a cross-layer transcoder: part l reads the input of layer l's MLP and writes the outputs of that layer
  and of all later ones (Ameisen et al. 2025, "Circuit tracing").
- ``crosscoder``: one part reads all places and writes them again (Lindsey et al. 2024): layers of a model, the same
  layer of two models, or of two checkpoints of one.

A new kind is one function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PartPlaces:
    """The places of one part, as ranges of the dictionary's lists of places read and places written."""

    reads: range
    """Numbers of the places that the part reads."""
    writes: range
    """Numbers of the places that the part writes."""
    own: range
    """Of the places it writes those that it has the bias of, and a skip connection to; each place is one part's own."""


def _transcoders(layers: int) -> tuple[PartPlaces, ...]:
    return tuple(PartPlaces(range(i, i + 1), range(i, i + 1), range(i, i + 1)) for i in range(layers))


def _clt(layers: int) -> tuple[PartPlaces, ...]:
    return tuple(PartPlaces(range(i, i + 1), range(i, layers), range(i, i + 1)) for i in range(layers))


def _crosscoder(places: int) -> tuple[PartPlaces, ...]:
    return (PartPlaces(range(places), range(places), range(places)),)


KINDS: Mapping[str, Callable[[int], tuple[PartPlaces, ...]]] = MappingProxyType(
    {"transcoders": _transcoders, "clt": _clt, "crosscoder": _crosscoder}
)
"""Name -> the parts, for a number of places."""


@dataclass(frozen=True)
class Layout:
    """A kind, and the names of the places.

    Example:
        >>> from saes import Layout
        >>> layout = Layout("clt", ("in0", "in1", "in2"), ("out0", "out1", "out2"))
        >>> [list(part.writes) for part in layout.parts]
        [[0, 1, 2], [1, 2], [2]]
    """

    kind: str
    """One of ``KINDS``: transcoders, clt or crosscoder."""
    reads: tuple[str, ...]
    """Names of the places read, in the order of the layers."""
    writes: tuple[str, ...]
    """Names of the places written, one for each that is read."""

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown kind and for places that do not fit together."""
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind of dictionary {self.kind!r}; there are {', '.join(KINDS)}")
        for name, places in (("reads", self.reads), ("writes", self.writes)):
            if not places:
                raise ValueError(f"{name} names no place; a {self.kind} needs one at least")
            if twice := sorted({place for place in places if places.count(place) > 1}):
                raise ValueError(f"{name} names {', '.join(twice)} twice; give every place once")
        if self.kind == "crosscoder" and self.reads != self.writes:
            raise ValueError("a crosscoder writes the places that it reads: leave writes out")
        if self.kind != "crosscoder" and len(self.reads) != len(self.writes):
            raise ValueError(
                f"a {self.kind} reads {len(self.reads)} places and writes {len(self.writes)}; every layer has one of"
                " each: " + _pairs(self.reads, self.writes)
            )

    @property
    def parts(self) -> tuple[PartPlaces, ...]:
        """The places of every part."""
        return KINDS[self.kind](len(self.reads))

    @property
    def autoencodes(self) -> bool:
        """Whether it writes what it reads, so that input and output share a bias, as an SAE's do."""
        return self.reads == self.writes

    @property
    def name(self) -> str:
        """The kind in words: a CLT that writes what it reads is a weakly causal crosscoder (Lindsey et al. 2024)."""
        return "weakly causal crosscoder" if self.kind == "clt" and self.autoencodes else self.kind


def _pairs(reads: Sequence[str], writes: Sequence[str]) -> str:
    return f"read {', '.join(reads)}; written {', '.join(writes)}"
