"""How fast is a training step of a TopK cross-layer transcoder, next to the dense arithmetic that others publish?

    python benchmarks/clt_step.py --rounds 3

``dense-einsum`` takes the step as crosslayer-transcoder, clt-training and Llamascopium compute it: a dense matrix of
latents for every layer, and for every layer that is written one einsum over all layers up to it, whose backward is two
more (``W_dec[m]`` is [m + 1, d_sae, d]). It is written here from that arithmetic, with the same TopK, loss, clipping
and (fused) Adam; both start from the same weights, and the table says how far their losses are apart after the warm-up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from clt_step_workers import CONTESTANTS, Settings
from interleave import Entry, interleave, machine, save, table
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=8192, help="a layer")
    parser.add_argument("--k", type=int, default=16, help="a layer")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("layers", "d", "d_sae", "k", "batch", "threads")}
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "settings.json"
        settings.write_text(json.dumps(dataclasses.asdict(Settings(**sizes, scratch=scratch))))
        measured = interleave(
            [Entry(n, (sys.executable, str(HERE / "clt_step_workers.py"), n, str(settings))) for n in CONTESTANTS],
            rounds=options.rounds,
            warm_up=options.warm_up,
            threads=options.threads,
            results=Path(scratch),
            compare=difference,
        )
    print(
        f"## CLT of {options.layers} layers, d {options.d}, d_sae {options.d_sae} a layer, k {options.k}, batch",
        end=" ",
    )
    print(f"{options.batch}, float32, {options.threads} threads, {options.rounds} rounds\n")
    print(table(measured, tokens=options.batch))
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    path = save(f"clt-step-{options.layers}-{options.d}-{options.d_sae}-{options.batch}", measured, vars(options))
    print(f"Wrote {path.name}")


def difference(floor: Path, other: Path) -> str:
    """Of the losses after the same steps."""
    ours, theirs = (float(load_file(path)["loss"]) for path in (floor, other))
    return f"loss {ours:.6f} and {theirs:.6f}"


if __name__ == "__main__":
    main()
