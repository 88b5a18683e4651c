"""Where the places of a dictionary are: names and patterns looked up in a store, and several stores of the same rows.

Two models, or two checkpoints of one, have sites of the same names: of several stores a place is named by the store's
number and the site, as in ``1:blocks.2.hook_resid_post``.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.sites.site import Site
from interp.store.activation_store import ActivationStore

_WILDCARD = re.compile(r"(?<![^.:])(\*|\d+-\d+)(?![^.\[])")
_BLOCK = 1 << 20


class SameRows:
    """Activation stores of the same tokens, row for row, read as one.

    Args:
        stores: Two or more; their tokens, documents and positions are compared.

    Raises:
        ValueError: fewer than two stores, or stores of other tokens; the first difference is named.

    Attributes:
        sites: Names of all places.
        provenance: That of every store, in a list.

    Example:
        >>> import interp
        >>> from saes.places import SameRows
        >>> early, late = (interp.load_model("embedded", revision=step) for step in ("step1024", "step5792"))
        >>> rows = interp.rows_for(late, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> site = "blocks.2.hook_resid_post"
        >>> both = SameRows([interp.cache_activations(m, rows, site, out) for m, out in ((early, "a"), (late, "b"))])
        >>> both.sites
        ('0:blocks.2.hook_resid_post', '1:blocks.2.hook_resid_post')
        >>> [tuple(x.shape) for x in next(both.batches_of(both.sites, 64)).values()]
        [(64, 96), (64, 96)]
    """

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        if len(stores) < 2:
            raise ValueError(f"{len(stores)} store is given; several stores are two or more of the same rows")
        self.stores = tuple(stores)
        for number, store in enumerate(self.stores[1:], 1):
            _check_same_rows(self.stores[0], store, number)
        self.sites = tuple(f"{number}:{site}" for number, store in enumerate(stores) for site in store.sites)
        self.provenance: dict[str, Any] = {"stores": [store.provenance for store in stores]}

    def __len__(self) -> int:
        """Number of tokens of each."""
        return len(self.stores[0])

    def place(self, name: str) -> str:
        """A place's name as ``batches_of`` takes it.

        Raises ValueError for one that is not there.
        """
        number, _, site = name.partition(":")
        known = f"{number}:{Site.parse(site)}" if number.isdigit() and site else name
        if known not in self.sites:
            raise ValueError(f"{name} is not in these stores, which have {', '.join(self.sites)}")
        return known

    def width(self, name: str) -> int:
        """Size of an activation."""
        number, _, site = self.place(name).partition(":")
        return self.stores[int(number)].width(site)

    def batches_of(
        self, places: Sequence[str], batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """As ``ActivationStore.batches_of``: row ``i`` of every place belongs to the same token."""
        names = [self.place(place) for place in places]
        wanted = {int(name.partition(":")[0]): [] for name in names}  # type: dict[int, list[Site]]
        for name in names:
            number, _, site = name.partition(":")
            wanted[int(number)].append(Site.parse(site))
        streams = [
            (number, self.stores[number].batches_of(sites, batch_size, seed, start)) for number, sites in wanted.items()
        ]
        for batches in zip(*(stream for _, stream in streams), strict=True):
            yield {
                f"{number}:{site}": rows
                for (number, _), batch in zip(streams, batches, strict=True)
                for site, rows in batch.items()
            }


@runtime_checkable
class HasSites(Protocol):
    """What places are looked up in: a store, live activations, or several stores."""

    @property
    def sites(self) -> Sequence[Site | str]:
        """In layer order."""
        ...

    def width(self, site: Any) -> int:
        """Size of an activation."""
        ...

    def __len__(self) -> int:
        """Number of activations at each place."""
        ...


def places_in(source: HasSites, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of places, in the order of the patterns, for ``*`` and ``2-5`` in the order of layers.

    A pattern without a store's number is looked for in every store, one store after another.
    """
    names = [str(site) for site in source.sites]
    numbers = sorted({name.partition(":")[0] for name in names if ":" in name}, key=int)
    found: list[str] = []
    for pattern in patterns:
        given = [pattern] if not numbers or ":" in pattern else [f"{number}:{pattern}" for number in numbers]
        for one in given:
            matching = _matching(one, names)
            if not matching:
                raise ValueError(f"{one} is not in the store, which has {', '.join(names)}")
            found += matching
    return tuple(found)


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    number, separator, text = pattern.rpartition(":")
    wildcard = _WILDCARD.search(text)
    if wildcard is None:
        wanted = [f"{number}{separator}{Site.parse(text)}"]
    else:
        layers = sorted({int(layer) for name in names for layer in re.findall(r"(?<=\.)\d+(?=\.|$)", name)})
        if wildcard[0] != "*":
            first, last = map(int, wildcard[0].split("-"))
            layers = [*range(first, last + 1)]
        each = [f"{text[: wildcard.start()]}{layer}{text[wildcard.end() :]}" for layer in layers]
        wanted = [f"{number}{separator}{Site.parse(one)}" for one in each]
        if wildcard[0] != "*" and (missing := [name for name in wanted if name not in names]):
            raise ValueError(f"{', '.join(missing)} of {pattern} is not in the store, which has {', '.join(names)}")
    return [name for name in wanted if name in names]


def _check_same_rows(first: ActivationStore, other: ActivationStore, number: int) -> None:
    if len(first) != len(other):
        raise ValueError(
            f"store 0 ({first.path}) has {len(first):,} tokens, store {number} ({other.path}) {len(other):,}: cache"
            " both from the same text with the same masks"
        )
    for begin in range(0, len(first), _BLOCK):
        window = slice(begin, begin + _BLOCK)
        ours, theirs = first.tokens(window), other.tokens(window)
        for column in ("tokens", "documents", "positions"):
            differs = getattr(ours, column) != getattr(theirs, column)
            if bool(differs.any()):
                at = begin + int(torch.nonzero(differs)[0])
                raise ValueError(
                    f"stores 0 ({first.path}) and {number} ({other.path}) are of other rows: {column} differ at token"
                    f" {at:,}. Cache both from the same text, with the same tokenizer, context, packing and masks"
                )
