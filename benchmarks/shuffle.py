"""Shuffled batches of activations: ours over a whole store, SAELens's from its mixing buffer.

    python benchmarks/shuffle.py --rounds 5

Both serve batches of 4,096. Ours come from a store on disk (in the page cache), in one permutation of all tokens;
SAELens's from tensors in memory, 4,096 tokens a model batch, through a buffer of 131,072 of which half stays behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from interleave import Entry, interleave, machine, save, table
from peers import peer_python
from worker import Contestant, serve

BATCH, BUFFER = 4096, 131_072


def deepfield(folder: Path, tokens: int, d: int) -> Contestant:
    from dark_matter import SITE, write_store

    store = write_store(folder, tokens, d)

    def run() -> None:
        for _ in store.batches(SITE, BATCH, seed=1):
            pass

    return Contestant(run, ("deepfield", "torch"))


def saelens(folder: Path, tokens: int, d: int) -> Contestant:
    from sae_lens.training.mixing_buffer import mixing_buffer

    parts = torch.randn(tokens, d).split(BATCH)

    def run() -> None:
        for _ in mixing_buffer(BUFFER, BATCH, iter(parts)):
            pass

    return Contestant(run, ("sae-lens", "torch"))


CONTESTANTS = {"deepfield": deepfield, "saelens": saelens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=524_288)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pythons = {"deepfield": sys.executable, "saelens": str(peer_python("saelens"))}
        entries = [
            Entry(name, (python, __file__, "--worker", json.dumps([name, folder, asked.tokens, asked.d])))
            for name, python in pythons.items()
        ]
        measured = interleave(
            entries, rounds=asked.rounds, warm_up=1, threads=2, results=Path(folder), compare=lambda *_: ""
        )
    about = machine()
    print(table(measured, tokens=asked.tokens))
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    print(f"Wrote {save('shuffle', measured, vars(asked)).name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, folder, tokens, d = json.loads(sys.argv[2])
        serve(lambda: CONTESTANTS[name](Path(folder) / name, tokens, d))
    else:
        main()
