"""How fast is exact selection, next to the operation that says what is to be selected?

    python benchmarks/selection.py --rounds 7

Both sides take turns in one process, on the same pre-activations, and their selections are compared every round:
- BatchTopK: entries above the k · rows-th largest of a batch, against ``torch.topk`` of the flattened tensor, as the
  peers do it, sorted (their default) and not;
- top-AFA: for each row the fewest largest whose norm is nearest to the input's, against a full sort of every row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from interleave import RESULTS, machine

from saes.latents import slots_above
from saes.selection import kth_largest, nearest_in_norm
from saes.training.optimiser.memory import keep_freed_memory

Selected = tuple[torch.Tensor, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--d-sae", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the trainer does
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(options.batch, options.d_sae, generator=generator)
    results = {
        "BatchTopK": in_turn(batch_topk(pre, options.k), options.rounds),
        "top-AFA": in_turn(top_afa(pre, options.k), options.rounds),
    }
    about: dict[str, Any] = {**machine(), "versions": f"deepfield {version('deepfield')}, torch {version('torch')}"}
    print(report(results))
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}. {about['versions']}.")
    path = RESULTS / "selection.json"
    path.write_text(json.dumps({"machine": about, "settings": vars(options), "seconds": results}, indent=1) + "\n")
    print(f"Wrote {path.name}")


def batch_topk(pre: torch.Tensor, k: int) -> dict[str, Callable[[], Selected]]:
    """Each gives the smallest value kept and how many are, once it knows where all of them are."""
    number = k * len(pre)

    def ours() -> Selected:
        smallest = kth_largest(pre, number)
        return smallest, slots_above(pre, smallest).taken.sum()

    def flattened(is_sorted: bool) -> Selected:
        values, indices = pre.flatten().topk(number, sorted=is_sorted)
        return values.min(), torch.tensor(len(indices))

    return {
        "ours": ours,
        "flattened topk, sorted": lambda: flattened(True),
        "flattened topk": lambda: flattened(False),
    }


def top_afa(pre: torch.Tensor, k: int) -> dict[str, Callable[[], Selected]]:
    """Targets that about the k largest of a row reach; gives the number of latents and the smallest of each row."""
    squares = pre.relu().square()
    target = squares.topk(k, dim=-1).values.sum(-1, keepdim=True).sqrt()

    def ours() -> Selected:
        indices, counts = nearest_in_norm(squares, target, last=torch.inf)
        return counts, squares.gather(1, indices).gather(1, counts - 1)

    def sorting() -> Selected:
        values, _ = squares.sort(descending=True)
        sums = values.cumsum(-1)
        sums[:, -1] = torch.inf
        counts = (sums.sqrt() - target).abs().argmin(-1, keepdim=True) + 1
        return counts, values.gather(1, counts - 1)

    return {"ours": ours, "full sort": sorting}


def in_turn(contestants: dict[str, Callable[[], Selected]], rounds: int) -> dict[str, list[float]]:
    """One warm-up and ``rounds`` timed runs of each, alternating.

    Raises AssertionError where they select differently.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        selected = []
        for name, run in contestants.items():
            begin = time.perf_counter()
            selected.append(run())
            if number:
                seconds[name].append(time.perf_counter() - begin)
        for other in selected[1:]:
            assert all(torch.equal(a, b) for a, b in zip(selected[0], other, strict=True)), "selections differ"
    return seconds


def report(results: dict[str, dict[str, list[float]]]) -> str:
    lines = [
        "| selection | against | its median s | ours, median s | its / ours (median of rounds) |",
        "|" + "---|" * 5,
    ]
    for what, seconds in results.items():
        ours = seconds["ours"]
        for name, theirs in seconds.items():
            if name != "ours":
                ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
                medians = f"{statistics.median(theirs):.3f} | {statistics.median(ours):.3f}"
                lines.append(f"| {what} | {name} | {medians} | {ratio:.2f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
