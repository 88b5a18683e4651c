"""Activations on disk, read back: mapped into memory, in order or in an order shuffled over all tokens.

A store is a folder: ``manifest.json`` (what the activations are of, and count, size and checksum of every shard),
beside it ``cache.json`` (the same before the run: what was asked), and ``shards/``. Batch ``k`` of a seed is a function
of both alone, and costs the same whatever ``k``: the order is computed, not stored (:mod:`interp.store.shuffle`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from interp.files.outside import check_still_whole, read_json
from interp.files.seals import SEAL, is_broken
from interp.sites.site import Site
from interp.store.folder import CACHE, FORMAT, MANIFEST
from interp.store.quantise import SCALE, STORAGE, decode, row_bytes
from interp.store.shards import COLUMNS, ShardRecord, map_shard, read_record, shard_fault, shard_path
from interp.store.shuffle import Permutation
from interp.terminal.short_repr import short_repr

_NOT_PROVENANCE = {SEAL, "format", "data_info", "rows_per_shard", "batch_rows", "versions", "tokens", "shards"}
# Every shard costs a few microseconds a call, so with many of them several batches are gathered at once.
_ROWS_A_CALL = 48
_WINDOW_BYTES = 1 << 28
_AGAIN = "Delete what is damaged and run the same interp cache command again"


@dataclass(frozen=True, kw_only=True)
class TokenColumns:
    """Which tokens some activations belong to.

    Example:
        >>> import torch
        >>> from interp.store import TokenColumns
        >>> ids = torch.tensor([5, 6, 7], dtype=torch.int32)
        >>> TokenColumns(tokens=ids, documents=ids * 0, positions=ids - 5).positions[-1].item()
        2
    """

    tokens: Int32[Tensor, " n"]
    """Id of each token, in the tokenizer's vocabulary."""
    documents: Int32[Tensor, " n"]
    """Number of the document that each token is of."""
    positions: Int32[Tensor, " n"]
    """In the row, as the model saw them."""

    __repr__ = short_repr


class ActivationStore:
    """Activations that ``interp cache`` or :func:`interp.store.caching.cache_activations` wrote.

    Opening checks the manifest and the size of every shard, and reading looks at the size again; :func:`verify` reads
    every byte.

    Attributes:
        path: The folder.
        sites: In layer order.
        provenance: What the activations are of (model, revision, fingerprints of weights and data, sites, masks,
            dtype), flat and JSON, for the records of what is made from them.

    Raises:
        ValueError: no store, an unfinished or damaged one; shards are named.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> store = interp.cache_activations(model, rows, "blocks.2.hook_resid_post", "acts")
        >>> next(interp.ActivationStore("acts").batches("blocks.2.hook_resid_post", 512, seed=0)).shape
        torch.Size([512, 96])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        self._records = [ShardRecord.from_json(record) for record in manifest["shards"]]
        if faults := _faults(self.path, self._records, checksum=False):
            raise ValueError(f"{'; '.join(faults)}. {_AGAIN}")
        self._widths = {Site.parse(name): int(width) for name, width in manifest["sites"].items()}
        self.sites: tuple[Site, ...] = tuple(self._widths)
        self.dtype = str(manifest["dtype"])
        self.provenance = {name: value for name, value in manifest.items() if name not in _NOT_PROVENANCE}
        self._ends = np.cumsum([0] + [record.count for record in self._records], dtype=np.int64)
        self._paths = [shard_path(self.path, index) for index in range(len(self._records))]
        self._mapped: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        """Number of tokens; every site has one activation for each."""
        return int(self._ends[-1])

    def __repr__(self) -> str:
        sites = f"{len(self.sites)} sites" if len(self.sites) > 1 else str(self.sites[0])
        return f"ActivationStore({str(self.path)!r}: {len(self):,} tokens at {sites}, {self.dtype})"

    def width(self, site: str | Site) -> int:
        """Size of an activation."""
        return self._widths[self._checked(site)]

    def shards(self, site: str | Site) -> list[Tensor]:
        """What is on disk, shard by shard [n, d], in the storage dtype and without a copy (of int8, the codes)."""
        name = str(self._checked(site))
        return [self._shard(index)[name] for index in range(len(self._records))]

    def read(self, site: str | Site, window: slice = slice(None)) -> Float[Tensor, "n d"]:
        """Float32 activations of some tokens in the order of the text; without a copy where they are stored as float32
        and lie in one shard."""
        name = str(self._checked(site))
        parts = [
            decode(shard[name][part], shard[name + SCALE][part] if self.dtype == "int8" else None)
            for shard, part in self._parts(window)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def tokens(self, window: slice = slice(None)) -> TokenColumns:
        """Token ids, documents and positions of some tokens in the order of the text."""
        parts = [[shard[name][part] for name in COLUMNS] for shard, part in self._parts(window)]
        return TokenColumns(**dict(zip(COLUMNS, map(torch.cat, zip(*parts, strict=True)), strict=True)))

    def indices(self, batch_size: int, seed: int | None = 0, start: int = 0) -> Iterator[Int64[np.ndarray, " b"]]:
        """The tokens (as :meth:`read` and :meth:`tokens` count them) of each batch of :meth:`batches`."""
        check_batches(batch_size, seed, start)
        order = self._order(seed)
        for begin in range(start * batch_size, len(self), batch_size):
            yield order(np.arange(begin, min(begin + batch_size, len(self)), dtype=np.int64))

    def batches(
        self, site: str | Site, batch_size: int, seed: int | None = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "b d"]]:
        """One epoch of float32 activations, from batch number ``start`` on; the last batch may be short.

        Batch ``k`` depends on ``seed``, ``batch_size`` and ``k`` alone. It is the caller's own: later batches do not
        overwrite it. With ``seed=None`` the order is that of the text. Inside a ``DataLoader`` leave ``num_workers`` at
        0: every worker would yield every batch.

        Raises:
            ValueError: a site that is not in the store, ``batch_size`` below 1, ``seed`` or ``start`` below 0.
        """
        place = self._checked(site)
        return (batch[place] for batch in self.batches_of([place], batch_size, seed, start))

    def batches_of(
        self, sites: Sequence[str | Site], batch_size: int, seed: int | None = 0, start: int = 0
    ) -> Iterator[dict[Site, Float[Tensor, "b d"]]]:
        """:meth:`batches` of several sites at once: row ``i`` of each belongs to the same token."""
        places = [self._checked(site) for site in sites]
        check_batches(batch_size, seed, start)
        return self._batches(places, batch_size, seed, start)

    def _batches(
        self, sites: Sequence[Site], batch_size: int, seed: int | None, start: int
    ) -> Iterator[dict[Site, Tensor]]:
        if seed is None:
            for begin in range(start * batch_size, len(self), batch_size):
                yield {site: self.read(site, slice(begin, begin + batch_size)) for site in sites}
            return
        token_bytes = sum(row_bytes(self.width(site), self.dtype) for site in sites)
        wanted = math.ceil(_ROWS_A_CALL * len(self._records) / batch_size)
        window = batch_size * max(1, min(wanted, _WINDOW_BYTES // (token_bytes * batch_size)))
        order = self._order(seed)
        buffers: dict[str, Tensor] = {}
        for begin in range(start * batch_size, len(self), window):
            wanted_tokens = order(np.arange(begin, min(begin + window, len(self)), dtype=np.int64))
            by_place = np.argsort(wanted_tokens)
            gathered = {site: self._gather(site, wanted_tokens[by_place], window, buffers) for site in sites}
            where = np.empty_like(by_place)
            where[by_place] = np.arange(len(by_place))
            for first in range(0, len(where), batch_size):
                rows = torch.from_numpy(where[first : first + batch_size])
                yield {
                    site: decode(values.index_select(0, rows), None if scale is None else scale.index_select(0, rows))
                    for site, (values, scale) in gathered.items()
                }

    def _gather(
        self, site: Site, tokens: np.ndarray, window: int, buffers: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of the given tokens, which ascend, in the storage dtype: the disk is read in its own order."""
        borders = np.searchsorted(tokens, self._ends)
        found = []
        for name in (str(site), str(site) + SCALE)[: 2 if self.dtype == "int8" else 1]:
            for index in np.flatnonzero(np.diff(borders)):
                begin, end = borders[index], borders[index + 1]
                source = self._shard(int(index))[name]
                if name not in buffers:
                    buffers[name] = torch.empty((min(window, len(self)), *source.shape[1:]), dtype=source.dtype)
                rows = torch.from_numpy(tokens[begin:end] - self._ends[index])
                torch.index_select(source, 0, rows, out=buffers[name][begin:end])
            found.append(buffers[name])
        return found[0], found[1] if len(found) > 1 else None

    def _order(self, seed: int | None) -> Any:
        return Permutation(len(self), seed) if seed is not None else (lambda indices: indices)

    def _shard(self, index: int) -> dict[str, Tensor]:
        if index not in self._mapped:
            widths = {str(site): width for site, width in self._widths.items()}
            self._mapped[index] = map_shard(self._paths[index], self._records[index].count, widths, self.dtype)
        check_still_whole(self._paths[index], self._records[index].bytes, fix=_AGAIN)
        return self._mapped[index]

    def _parts(self, window: slice) -> list[tuple[dict[str, Tensor], slice]]:
        """Shards and the rows in each that make up a window of tokens."""
        begin, stop, step = window.indices(len(self))
        if step != 1:
            raise ValueError(f"a window of tokens is contiguous; {window} has step {step}")
        first = int(np.searchsorted(self._ends, begin, side="right")) - 1
        last = max(first, int(np.searchsorted(self._ends, stop)) - 1)
        ends = self._ends
        return [
            (self._shard(index), slice(max(0, begin - ends[index]), max(0, stop - ends[index])))
            for index in range(min(first, len(self._records) - 1), min(last, len(self._records) - 1) + 1)
        ]

    def _checked(self, site: str | Site) -> Site:
        place = Site.parse(site)
        if place not in self._widths:
            raise ValueError(f"{place} is not in {self.path}, which has {', '.join(map(str, self.sites))}")
        return place


def check_batches(batch_size: int, seed: int | None, start: int) -> None:
    """Refuse what :meth:`ActivationStore.batches` cannot give."""
    for name, value, least in (("batch_size", batch_size, 1), ("start", start, 0), ("seed", seed, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished store, its fields checked.

    Raises:
        ValueError: there is none, or it is damaged.

    Example:
        >>> import interp
        >>> from pathlib import Path
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=1_000)
        >>> store = interp.cache_activations(model, rows, ["blocks.1.hook_resid_post"], out="acts")
        >>> "sites" in interp.store.read_manifest(Path("acts"))
        True
    """
    path = folder / MANIFEST
    if not path.is_file():
        state = (
            "is unfinished: the same interp cache command continues it"
            if (folder / CACHE).is_file()
            else "holds no activation store (no manifest.json); interp cache writes one"
        )
        raise ValueError(f"{folder} {state}")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT}, which this version reads; cache the activations again")
    kinds = {"sites": dict, "dtype": str, "tokens": int, "shards": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    try:
        counts = [ShardRecord.from_json(record).count for record in manifest["shards"]] if not wrong else []
    except ValueError:
        wrong.append("shards")
    if not wrong and (sum(counts) != manifest["tokens"] or not 0 < manifest["tokens"] < 1 << 63):
        wrong.append("tokens")
    if not wrong and (manifest["dtype"] not in STORAGE or not _are_widths(manifest["sites"])):
        wrong.append("sites and dtype")
    if wrong:
        raise ValueError(
            f"{path} is damaged: {', '.join(wrong)}. Delete it and run the same interp cache command again"
        )
    if is_broken(manifest):
        raise ValueError(f"{path} was altered: its checksum differs. Delete it and run the same interp cache command")
    return manifest


def verify(path: str | Path) -> list[str]:
    """Read every byte of a store, finished or not, and say what is wrong, naming the files.

    Raises:
        ValueError: there is no store to verify.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=1_000)
        >>> store = interp.cache_activations(model, rows, ["blocks.1.hook_resid_post"], out="acts")
        >>> interp.store.verify("acts")  # nothing is wrong
        []
    """
    folder = Path(path)
    if not (folder / CACHE).is_file():
        raise ValueError(f"{folder} holds no activation store (no {CACHE}); interp cache writes one")
    found = sorted((folder / "shards").glob("*.safetensors"))
    if not (folder / MANIFEST).is_file():
        notes = [(shard, read_record(shard)) for shard in found]
        return [f"{folder} is unfinished: the same interp cache command continues it"] + [
            fault for shard, note in notes if note and (fault := shard_fault(shard, note, checksum=True))
        ]
    try:
        manifest, asked = read_manifest(folder), read_json(folder / CACHE)
    except ValueError as error:
        return [str(error)]
    records = [ShardRecord.from_json(record) for record in manifest["shards"]]
    faults = _faults(folder, records, checksum=True)
    if {name: manifest.get(name) for name in asked} != asked:
        faults.append(f"{folder / CACHE} and {folder / MANIFEST} disagree: one of them was altered")
    extra = set(found) - {shard_path(folder, index) for index in range(len(records))}
    return faults + [f"{shard} does not belong to this store" for shard in sorted(extra)]


def _faults(folder: Path, records: Sequence[ShardRecord], *, checksum: bool) -> list[str]:
    checked = (
        shard_fault(shard_path(folder, index), record, checksum=checksum) for index, record in enumerate(records)
    )
    return [fault for fault in checked if fault]


def _are_widths(sites: Mapping[str, Any]) -> bool:
    """Whether sites have the names they would be printed with, and positive widths."""
    try:
        return bool(sites) and all(
            str(Site.parse(name)) == name and type(width) is int and width > 0 for name, width in sites.items()
        )
    except ValueError:
        return False
