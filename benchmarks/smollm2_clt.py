"""A cross-layer transcoder of six layers of SmolLM2-135M, from the command line to a table.

    python benchmarks/smollm2_clt.py --out runs/smollm2-clt

Text is the books that ship with the embedded model. Every step is an `interp` command, printed before it runs, and
resumes; --threads 1 keeps it to one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interleave import machine

from interp.embedded import TEXT_FOLDER

MODEL = "smollm2-135m"


def interp(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print("$ interp " + " ".join(words), flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "interp", *words], check=True)
    print(f"({time.monotonic() - began:.0f} s)\n", flush=True)


def show(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} ± {estimate['standard_error']:.3f}"


def table(report: dict[str, Any]) -> str:
    """By layer, and the replacement model."""
    lines = ["| written | FVU | L0 of the layer's latents | never active |\n|---|---:|---:|---:|"]
    for place, part in zip(report["places"], report["parts"], strict=True):
        lines.append(
            f"| {place['place']} | {show(place['fvu'])} | {show(part['l0'])} | {show(part['dead_fraction'])} |"
        )
    lines.append("\n| replacement model | KL | CE added | top-1 agreement |\n|---|---:|---:|---:|")
    for mode in ("true_stream", "compounding"):
        its = report[mode]
        cells = " | ".join(show(its[name]) for name in ("kl", "ce_difference", "top_1"))
        lines.append(f"| {mode.replace('_', ' ')} | {cells} |")
    exact = f"with error nodes the logits differ by {report['with_error_nodes']:.1e} of the largest"
    return "\n".join([*lines, f"\nCE clean {show(report['ce_clean'])}; {report['tokens']:,} tokens; {exact}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2-clt"))
    parser.add_argument("--layers", default="12-17")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--heldout-tokens", type=int, default=3_000)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    out, layers = options.out, options.layers
    reads, writes = f"blocks.{layers}.mlp.hook_in", f"blocks.{layers}.hook_mlp_out"
    interp(
        *("cache", MODEL, "--sites", reads, writes, "--data", TEXT_FOLDER / "train.jsonl", "--out", out / "store"),
        *("--tokens", options.tokens, "--context", 256, "--dtype", "float16", "--drop-norm-above", 10),
    )
    interp(
        *("train", "--store", out / "store", "--kind", "clt", "--reads", reads, "--writes", writes),
        *("--activation", "topk", "--k", options.k, "--d-sae", options.d_sae, "--out", out / "clt"),
        *("--tokens", options.epochs * options.tokens, "--batch-size", 1024, "--lr", 2e-3),
    )
    report = out / "eval.json"
    interp(
        *("eval", out / "clt", "--data", TEXT_FOLDER / "heldout.jsonl", "--tokens", options.heldout_tokens),
        *("--first-position", 1, "--out", report, "--html", out / "eval.html"),
    )
    print(table(json.loads(report.read_text(encoding="utf-8"))))
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, {options.threads} threads, {about['date']}")


if __name__ == "__main__":
    main()
