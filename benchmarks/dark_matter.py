"""How long the split of an SAE's error takes from a store, and in how much memory.

    python benchmarks/dark_matter.py --tokens 250000 --d 576

The store holds random activations, the "SAE" is a random linear map and a rectifier: what is timed is reading, the
regressions (with and without intercept), the bootstrap and the baselines, without the encoder of an SAE.
"""

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

import torch

from interp import ActivationStore, Site
from interp.files.writing import write_json
from interp.store.shards import read_record, shard_path, write_shard
from saes.dark_matter import split_error
from saes.dark_matter.split.kept_tokens import keep_tokens
from saes.dark_matter.split.reconstructions import Reconstruction, RowsOfSAE

SITE = "blocks.0.hook_resid_post"
SHARD = 65_536


def write_store(folder: Path, tokens: int, d: int) -> ActivationStore:
    """Documents of 500 tokens in rows of 1,000."""
    generator = torch.Generator().manual_seed(0)
    shards = []
    for index, begin in enumerate(range(0, tokens, SHARD)):
        numbers = torch.arange(begin, min(begin + SHARD, tokens), dtype=torch.int32)
        write_shard(
            shard_path(folder, index),
            {
                "tokens": numbers * 7919 % 40_000,
                "documents": numbers // 500,
                "positions": numbers % 1000,
                SITE: torch.randn(len(numbers), d, generator=generator),
            },
        )
        record = read_record(shard_path(folder, index))
        assert record is not None
        shards.append(vars(record))
    manifest = {"format": 1, "sites": {SITE: d}, "dtype": "float32", "tokens": tokens, "shards": shards}
    write_json(folder / "manifest.json", manifest)
    return ActivationStore(folder)


class AnonymousMemory(threading.Thread):
    """The most memory of its own the process holds (Linux): pages of the mapped store, which can be dropped, not."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._done = 0, threading.Event()
        self.before = self._now()
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, self._now())

    def peak(self) -> float:
        """GiB above what was held at the start; ends the watch."""
        self._done.set()
        return (self.bytes - self.before) / 2**30

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--d", type=int, default=576)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), asked.tokens, asked.d)
        mixing = torch.randn(asked.d, asked.d, generator=torch.Generator().manual_seed(1)) / asked.d**0.5
        before = resource.getrusage(resource.RUSAGE_SELF)
        memory = AnonymousMemory()
        began = time.monotonic()
        kept = keep_tokens(store, Site.parse(SITE))
        rows = RowsOfSAE(
            kept=kept, site=Site.parse(SITE), reconstruct=lambda x: Reconstruction((x @ mixing).relu(), None)
        )
        split = split_error(rows, tokens=kept.ids, positions=kept.positions)
        seconds = time.monotonic() - began
        peak = memory.peak()
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{asked.tokens:,} x {asked.d}: {seconds:.1f} s ({cpu:.1f} s of CPU), {torch.get_num_threads()} threads")
    print(f"memory of its own: {peak:.2f} GiB")
    print(f"FVU {split.fvu}, nonlinear {split.fvu_nonlinear}, R² {split.r2_vector}")


if __name__ == "__main__":
    main()
