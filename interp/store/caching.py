"""Cache a model's activations: one pass over the tokens, many sites, shard after shard.

The unit of work is a shard: a fixed block of rows of tokens. Its content is a function of the block, so a run may be
killed anywhere and continued, or shared among processes, and the folder ends with the same bytes. ``cache.json`` says
first what was asked, and ``manifest.json`` last what is there. While the model works on one shard, a thread writes the
one before.
"""

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp import processes
from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import read_json
from interp.files.seals import write_sealed_json
from interp.files.writing import DiskFull, write_json
from interp.models.bridge import Model
from interp.processes import Processes
from interp.sites.site import Site, expand_sites
from interp.store.activation_store import ActivationStore
from interp.store.folder import CACHE, FORMAT, MANIFEST, SHARDS, check_folder
from interp.store.masks import Masks
from interp.store.plan import Plan, free_bytes, peak_memory, seconds_of
from interp.store.quantise import check_storage, encode, row_bytes
from interp.store.shards import COLUMNS, read_record, shard_fault, shard_path, write_shard
from interp.store.streaming import check_input, default_batch_rows, describe, site_widths, stream
from interp.terminal.progress import progress as working
from interp.tokens.token_rows import TokenRows

logger = logging.getLogger(__name__)

SHARD_BYTES = 1 << 28
_VERSIONS = ("deepfield", "torch", "transformers")
Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """A run, checked and ready; see :func:`prepare`."""

    model: Model
    """The model that is run."""
    rows: TokenRows
    """The text, as rows of token ids."""
    widths: dict[Site, int]
    """How many numbers a token has at each site."""
    out: Path
    """Folder that the store is written to."""
    dtype: str
    """Number format that activations are stored in."""
    masks: Masks
    """Which tokens are kept, and why."""
    batch_rows: int
    """How many rows go through the model together."""
    rows_per_shard: int
    """How many rows of text one shard holds."""
    counts: np.ndarray
    """Tokens of each row that the masks keep (before the norm mask)."""
    config: dict[str, Any]
    """What stands in ``cache.json``, as plain data."""

    @property
    def shards(self) -> int:
        """Their number."""
        return -(-len(self.rows.ids) // self.rows_per_shard)

    def rows_of(self, index: int) -> np.ndarray:
        """Numbers of the rows of one shard."""
        begin = index * self.rows_per_shard
        return np.arange(begin, min(begin + self.rows_per_shard, len(self.rows.ids)))


def cache_activations(
    model: Model,
    rows: TokenRows,
    sites: str | Site | Iterable[str | Site],
    out: str | Path,
    *,
    dtype: str = "float32",
    masks: Masks | None = None,
    batch_rows: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = False,
) -> ActivationStore:
    """Cache the activations of every token of ``rows`` at ``sites``, or finish doing so, and open the store.

    Under torchrun, processes share the work. Two numbers of threads may round differently; everything else that could
    change a bit of the result is in ``cache.json``.

    Args:
        model: A TransformerBridge with raw weights.
        rows: Of :func:`interp.tokens.write_token_rows`.
        sites: Names, or patterns such as ``blocks.*.hook_resid_post``.
        out: Folder to write; one with an unfinished run of the same config is continued.
        dtype: On disk: one of ``interp.store.quantise.STORAGE``.
        masks: Tokens to leave out; by default padding only.
        batch_rows: Rows to run at once; by default about 4,096 tokens.
        shard_bytes: Size of a shard, about. Twice that is held in memory.
        progress: Show a bar.

    Raises:
        ValueError: the input is of no use (a message says which and why), the folder belongs to another run or is in
            use, or an activation is not finite or too large for ``dtype``.
        OSError: the disk is full or cannot be written; shards that are complete stay, and the next run continues.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> store = interp.cache_activations(model, rows, "blocks.*.hook_resid_post", "acts", dtype="float16")
        >>> len(store.sites)
        4
    """
    job = prepare(model, rows, sites, out, dtype=dtype, masks=masks, batch_rows=batch_rows, shard_bytes=shard_bytes)
    return run(job, progress=progress)


def prepare(
    model: Model,
    rows: TokenRows,
    sites: str | Site | Iterable[str | Site],
    out: str | Path,
    *,
    dtype: str = "float32",
    masks: Masks | None = None,
    batch_rows: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Harvest:
    """Check everything about a run that can be checked before it; nothing is written. See :func:`cache_activations`."""
    masks, out = masks or Masks(), Path(out)
    batch_rows = default_batch_rows(rows) if batch_rows is None else batch_rows
    check_folder(out)
    check_storage(dtype)
    masks.check()
    for name, value in (("batch_rows", batch_rows), ("shard_bytes", shard_bytes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    places = expand_sites(model, sites)
    check_input(model, rows)
    counts = masks.counts(rows)
    widths = site_widths(model, places)
    rows_per_shard = max(1, shard_bytes // (rows.ids.shape[1] * _token_bytes(widths, dtype)))
    if rows_per_shard > batch_rows:
        rows_per_shard -= rows_per_shard % batch_rows
    return Harvest(
        model=model,
        rows=rows,
        widths=widths,
        out=out,
        dtype=dtype,
        masks=masks,
        batch_rows=batch_rows,
        rows_per_shard=rows_per_shard,
        counts=counts,
        config={
            "format": FORMAT,
            **describe(model, rows, widths, masks),
            "dtype": dtype,
            "data_info": rows.info,
            "batch_rows": batch_rows,
            "rows_per_shard": rows_per_shard,
            "versions": {name: version(name) for name in _VERSIONS},
        },
    )


def plan(job: Harvest, *, trial: bool = True) -> Plan:
    """What the run will need; with ``trial`` one batch is run twice, for memory and time."""
    token_bytes = _token_bytes(job.widths, job.dtype)
    tokens = [int(job.counts[job.rows_of(index)].sum()) for index in range(job.shards)]
    done = [shard_path(job.out, index).with_suffix(".json").is_file() for index in range(job.shards)]
    header = 1024 + 160 * len(job.widths)  # of a shard and its note, about
    missing = sum(count * token_bytes + header for count, is_done in zip(tokens, done, strict=True) if not is_done)
    seconds, memory = None, None
    if trial:
        first = job.rows_of(0)[: job.batch_rows]
        batches = sum(-(-len(job.rows_of(index)) // job.batch_rows) for index in range(job.shards) if not done[index])
        seconds = seconds_of(partial(_shard_tensors, job, first, lambda count: None)) * batches
        seconds /= processes.current().size
        memory = peak_memory() + min(2, job.shards) * max(tokens) * token_bytes
    return Plan(
        out=job.out,
        tokens=sum(tokens),
        sites=len(job.widths),
        dtype=job.dtype,
        shards=job.shards,
        shards_done=sum(done),
        disk_bytes=sum(tokens) * token_bytes + header * job.shards,
        disk_missing=missing,
        disk_free=free_bytes(job.out),
        memory_bytes=memory,
        seconds=seconds,
    )


def run(job: Harvest, *, progress: bool = False) -> ActivationStore:
    """Do, or finish, what was prepared. See :func:`cache_activations`."""
    group = processes.current()
    with group.telling_others(), alone_in(job.out, below=[SHARDS]) if group.leads else nullcontext():
        if group.leads:
            _claim(job)
        group.wait_for_all()
        _write_missing(job, group, progress=progress)
        group.wait_for_all()
        if group.leads:
            _write_manifest(job)
        group.wait_for_all()
    return ActivationStore(job.out)


def _claim(job: Harvest) -> None:
    """Say in the folder whose it is, or check that it is this run's."""
    path = job.out / CACHE
    if path.is_file():
        found, asked = read_json(path), dict(job.config)
        if _is_finished(job.out):  # whatever is installed now will not change it
            asked["versions"] = found.get("versions")
        check_same(found, asked, where=job.out)
    plan(job, trial=False).check()
    if not path.is_file():
        write_json(path, job.config)


def _is_finished(folder: Path) -> bool:
    try:
        ActivationStore(folder)
    except ValueError:
        return False
    return True


def _write_missing(job: Harvest, group: Processes, *, progress: bool) -> None:
    """Compute and write this process's shards, where they are not whole already."""
    finished = (job.out / MANIFEST).is_file()
    mine = group.share(job.shards)
    missing = [index for index in mine if not _is_whole(job, index, checksum=not finished)]
    tokens = [int(job.counts[job.rows_of(index)].sum()) for index in mine]
    left = sum(int(job.counts[job.rows_of(index)].sum()) for index in missing)
    show = working("cache", sum(tokens), done=sum(tokens) - left, unit="tokens", show=progress)
    with ThreadPoolExecutor(1) as writer, show if group.leads else nullcontext(_tell_nobody) as advance:
        writing: Future[None] | None = None
        for index in missing:
            tensors = _shard_tensors(job, job.rows_of(index), advance)
            _finish(writing, job)
            writing = writer.submit(write_shard, shard_path(job.out, index), tensors)
        _finish(writing, job)


def _tell_nobody(_count: int) -> None:
    """The progress of processes that do not lead."""


def _shard_tensors(job: Harvest, which: np.ndarray, advance: Advance) -> dict[str, Tensor]:
    """The content of the shard made of some rows."""
    n = int(job.counts[which].sum())
    tensors = {name: torch.empty(n, dtype=torch.int32) for name in COLUMNS}
    norms = [torch.empty(n if job.masks.drop_norm_above else 0) for _ in job.widths]
    done = 0
    for batch in stream(job.model, job.rows, list(job.widths), which, masks=job.masks, batch_rows=job.batch_rows):
        end = done + len(batch.tokens)
        for name in COLUMNS:
            tensors[name][done:end] = torch.from_numpy(getattr(batch, name))
        for norm, (site, x) in zip(norms, batch.at.items(), strict=True):
            if job.masks.drop_norm_above:
                norm[done:end] = x.float().norm(dim=-1)
            for name, stored in encode(x, job.dtype, name=str(site)).items():
                if name not in tensors:
                    tensors[name] = torch.empty((n, *stored.shape[1:]), dtype=stored.dtype)
                tensors[name][done:end] = stored
        advance(end - done)
        done = end
    keep = job.masks.by_norm(norms)
    if keep is not None:
        for name in tensors:
            tensors[name] = tensors[name][keep]
    return tensors


def _is_whole(job: Harvest, index: int, *, checksum: bool) -> bool:
    path = shard_path(job.out, index)
    record = read_record(path)
    fault = shard_fault(path, record, checksum=checksum) if record else None
    if fault:
        logger.warning("%s; computing it again", fault)
    return record is not None and fault is None


def _finish(writing: "Future[None] | None", job: Harvest) -> None:
    """Wait for the shard being written; a full disk is told in words."""
    try:
        if writing is not None:
            writing.result()
    except DiskFull as error:
        whole = sum(shard_path(job.out, index).with_suffix(".json").is_file() for index in range(job.shards))
        raise DiskFull(
            error.errno,
            f"no room on the disk of {job.out} ({os.strerror(error.errno or 0)}): {whole} of {job.shards} shards are"
            " complete and stay; make room, and the same command continues",
        ) from error


def _write_manifest(job: Harvest) -> None:
    records = [read_record(shard_path(job.out, index)) for index in range(job.shards)]
    shards = [asdict(record) for record in records if record is not None]
    assert len(shards) == job.shards
    tokens = sum(shard["count"] for shard in shards)
    write_sealed_json(job.out / MANIFEST, read_json(job.out / CACHE) | {"tokens": tokens, "shards": shards})


def _token_bytes(widths: dict[Site, int], dtype: str) -> int:
    return sum(row_bytes(width, dtype) for width in widths.values()) + 4 * len(COLUMNS)
