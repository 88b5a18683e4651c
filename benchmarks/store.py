"""How fast is an activation store written and read, next to what the disk and the model allow?

    python benchmarks/store.py --tokens 400000 --rounds 5

Three comparisons in turn, ratios from one run:
- writing: `cache_activations` against running the model and keeping nothing (GPT-2 small's shape, random weights);
- reading in order: a sum over every shard against the same sum over one memory-mapped numpy array of the same bytes;
- shuffled batches: `ActivationStore.batches` against indexing that array with `numpy.random.permutation`, and alone in
  tokens a second.
Files are in the page cache: this measures the code, not the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleave import RESULTS, machine
from transformers import GPT2Config, GPT2LMHeadModel

from interp import ActivationStore, capture, load_model
from interp.store.caching import cache_activations
from interp.tokens.token_rows import TokenRows, write_token_rows

CONTEXT, BATCH = 128, 4096
SITE_READ, SITE_WRITE = "blocks.0.hook_resid_pre", "blocks.6.hook_resid_post"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400_000, help="in the store that is read")
    parser.add_argument("--written-tokens", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        results = measure(scratch, options)
    finally:
        shutil.rmtree(scratch)
    print(report(results))
    about = machine()
    packages = ("deepfield", "torch", "transformers", "transformer-lens", "numpy")
    about["versions"] = ", ".join(f"{name} {version(name)}" for name in packages)  # type: ignore[assignment]
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}. {about['versions']}.")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "store.json"
    path.write_text(json.dumps({"machine": about, "settings": vars(options), "seconds": results}, indent=1) + "\n")
    print(f"Wrote {path.name}")


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds of every run, by comparison and contestant."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(scratch / "model")
    model = load_model(scratch / "model")
    rows = random_rows(scratch / "few", options.written_tokens)
    many = random_rows(scratch / "many", options.tokens)
    results: dict[str, dict[str, Any]] = {}

    fresh = iter(range(1_000_000))
    ids = rows.tensor_of("ids")

    def forward_only() -> None:
        for chunk in ids.split(BATCH // CONTEXT):
            capture(model, chunk, SITE_WRITE)

    def written() -> None:
        cache_activations(model, rows, SITE_WRITE, scratch / f"written-{next(fresh)}", batch_rows=BATCH // CONTEXT)

    results["write"] = in_turn({"capture alone": forward_only, "cached to disk": written}, options.rounds)

    store = cache_activations(model, many, SITE_READ, scratch / "store", dtype="float32")
    array = np.lib.format.open_memmap(
        scratch / "array.npy", mode="w+", dtype=np.float32, shape=(len(store), store.width(SITE_READ))
    )
    array[:] = store.read(SITE_READ).numpy()
    array.flush()
    mapped = np.load(scratch / "array.npy", mmap_mode="r")
    results["read in order"] = in_turn(
        {
            "numpy memmap": lambda: [float(part.sum()) for part in np.array_split(mapped, 16)],
            "store": lambda: [float(shard.numpy().sum()) for shard in ActivationStore(store.path).shards(SITE_READ)],
        },
        options.rounds,
    )

    def naive() -> None:
        order = np.random.default_rng(0).permutation(len(mapped))
        for begin in range(0, len(order), BATCH):
            torch.from_numpy(mapped[order[begin : begin + BATCH]])

    def shuffled() -> None:
        for _ in store.batches(SITE_READ, BATCH, seed=1):
            pass

    results["shuffled batches"] = in_turn({"numpy permutation": naive, "store": shuffled}, options.rounds)
    results["shuffled batches"]["tokens"] = len(store)
    results["read in order"]["bytes"] = mapped.nbytes
    results["write"]["tokens"] = ids.numel()
    return results


def random_rows(folder: Path, tokens: int) -> TokenRows:
    ids = np.random.default_rng(0).integers(1, 50_000, size=tokens)
    return write_token_rows(ids, None, folder, tokens=tokens, context=CONTEXT, separator=None, vocab_size=50_257)


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """One warm-up and `rounds` timed runs of each, alternating."""
    seconds: dict[str, Any] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| what | against | median s | ours, median s | ours / other (median of rounds) | rate of ours |",
        "|" + "---|" * 6,
    ]
    for what, seconds in results.items():
        (other, theirs), (_, ours) = [item for item in seconds.items() if isinstance(item[1], list)]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        median = statistics.median(ours)
        amount, scale, unit = (
            (seconds["tokens"], 1, "tokens/s") if "tokens" in seconds else (seconds["bytes"], 1e6, "MB/s")
        )
        rate = f"{amount / scale / median:,.0f} {unit}"
        lines.append(f"| {what} | {other} | {statistics.median(theirs):.3f} | {median:.3f} | {ratio:.3f} | {rate} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
