"""Is this checkout slower than another one? Harvest and training step of both, in turn, with ratios round by round.

    git worktree add ../before 2d80b38     # the last commit before modules moved into rooms
    python benchmarks/against.py ../before

Each side runs its own workers on its own packages, in the interpreter that runs this. This checkout takes part twice:
how far `here-again` is from 1 is how far any ratio of the run can be trusted, so run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harvest import largest_difference, make_settings
from interleave import Entry, Measured, interleave, machine, save, table
from train_step_workers import Settings as StepSettings

HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of another checkout")
    parser.add_argument("--what", nargs="+", choices=("harvest", "train-step"), default=["harvest", "train-step"])
    parser.add_argument("--shape", choices=("gpt2", "pythia-70m"), default="gpt2")
    parser.add_argument("--layers", choices=("middle", "all"), default="middle")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model's weights")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    other = options.other.resolve()
    if not (other / "benchmarks" / "worker.py").is_file():
        parser.error(f"{options.other} is no checkout of this repository: it has no benchmarks/worker.py")
    sides = {f"before ({commit(other)})": other, f"here ({commit(HERE)})": HERE, "here-again": HERE}
    about, measured = machine(), {}
    for what in options.what:
        with tempfile.TemporaryDirectory() as scratch:
            measured[what], tokens = run(what, sides, options, Path(scratch))
        print(f"## {what}, {options.threads} threads, {options.rounds} rounds\n")
        print(table(measured[what], tokens=tokens))
        print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.\n", flush=True)
        save(f"against-{what}", measured[what], {**vars(options), "other": other.name})


def run(what: str, sides: dict[str, Path], options: argparse.Namespace, scratch: Path) -> tuple[list[Measured], int]:
    """Times of each side, the other checkout's first; and tokens of one run."""
    compare: Callable[[Path, Path], str] = own_weights
    if what == "harvest":
        script, contestant = "benchmarks/harvest_workers.py", "deepfield-capture"
        tokens = options.rows * options.context
        settings: Any = make_settings(options, scratch)
        compare = largest_difference
    else:
        script, contestant, tokens = "benchmarks/train_step_workers.py", "deepfield", options.batch
        sizes = {name: getattr(options, name) for name in ("d_in", "d_sae", "k", "batch", "threads")}
        settings = StepSettings(**sizes, scratch=str(scratch))
    file = scratch / "settings.json"
    file.write_text(json.dumps(dataclasses.asdict(settings)))
    entries = [
        Entry(label, ("env", f"PYTHONPATH={side}", sys.executable, f"{side}/{script}", contestant, str(file)))
        for label, side in sides.items()
    ]
    rounds = {name: getattr(options, name) for name in ("rounds", "warm_up", "threads")}
    return interleave(entries, **rounds, results=scratch, compare=compare), tokens


def own_weights(_floor: Path, _other: Path) -> str:
    """Nothing to compare."""
    return ""


def commit(checkout: Path) -> str:
    """The short name of what is checked out, with a mark where files differ from it."""
    command = ("git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*")
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"


if __name__ == "__main__":
    main()
