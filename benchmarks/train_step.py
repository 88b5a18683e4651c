"""How fast is a training step of a TopK SAE, next to peers as they are shipped?

    python benchmarks/train_step.py --rounds 7

Each contestant takes the step of its own trainer, in turn with the others; times are relative to deepfield's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from interleave import Entry, interleave, machine, save, table
from peers import known_peers, peer_python
from train_step_workers import CONTESTANTS, Settings

HERE = Path(__file__).resolve().parent
OURS = "deepfield"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help="comma separated; deepfield always runs")
    options = parser.parse_args()
    contestants = [OURS, *(name for name in options.contestants.split(",") if name != OURS)]
    if unknown := set(contestants) - set(CONTESTANTS):
        parser.error(f"unknown contestants {sorted(unknown)}; there are {', '.join(CONTESTANTS)}")

    sizes = {name: getattr(options, name) for name in ("d_in", "d_sae", "k", "batch", "threads")}
    with tempfile.TemporaryDirectory() as scratch:
        settings_file = Path(scratch) / "settings.json"
        settings_file.write_text(json.dumps(dataclasses.asdict(Settings(**sizes, scratch=scratch))))
        measured = interleave(
            [Entry(name, worker_command(name, settings_file)) for name in contestants],
            rounds=options.rounds,
            warm_up=options.warm_up,
            threads=options.threads,
            results=Path(scratch),
            compare=lambda floor, other: "",
        )
    about = machine()
    print(f"## TopK, k {options.k}, d_in {options.d_in}, d_sae {options.d_sae}, batch {options.batch}, float32,")
    print(f"{options.threads} threads, {options.rounds} rounds\n")
    print(table(measured, tokens=options.batch))
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    path = save(f"train-step-{options.d_in}-{options.d_sae}-{options.batch}", measured, vars(options))
    print(f"Wrote {path.name}")


def worker_command(contestant: str, settings_file: Path) -> tuple[str, ...]:
    python = str(peer_python(contestant)) if contestant in known_peers() else sys.executable
    return python, str(HERE / "train_step_workers.py"), contestant, str(settings_file)


if __name__ == "__main__":
    main()
