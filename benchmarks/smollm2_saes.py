"""TopK and top-AFA SAEs on SmolLM2-135M and real text, from the command line to a table.

    python benchmarks/smollm2_saes.py --train BOOKS --heldout BOOKS --out runs/smollm2

BOOKS are folders of .txt files; an even sample of their paragraphs is taken. Every step is an `interp` command, printed
before it runs, and resumes. The TopK SAEs are also written for SAELens and compared there, in its own environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from interleave import machine
from peers import peer_python
from safetensors.torch import load_file, save_file

from interp import ActivationStore
from interp.embedded.text import sample
from saes import SAE

MODEL, SITE = "smollm2-135m", "blocks.15.hook_resid_post"
FIGURES = {
    "FVU": ("fvu",),
    "FVU, ordinary tokens": ("without_massive", "fvu"),
    "L0, ordinary": ("without_massive", "l0"),
    "dead": ("dead_fraction",),
    "CE clean": ("ce_clean",),
    "CE added": ("ce_difference",),
    "CE added, ordinary": ("without_massive", "ce_difference"),
    "CE recovered (zero)": ("ce_recovered_zero",),
    "CE recovered (mean)": ("ce_recovered_mean",),
}
"""Columns: where `interp eval` keeps them."""
IN_SAELENS = """
import sys
from safetensors.torch import load_file, save_file
from sae_lens import SAE
sae = SAE.load_from_disk(sys.argv[1])
x = load_file(sys.argv[2])["x"]
latents = sae.encode(x)
save_file({"latents": latents, "x_hat": sae.decode(latents)}, sys.argv[3])
"""


def interp(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print("$ interp " + " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", "interp", *words], check=True)


def write_sample(books: Path, out: Path, size: int) -> Path:
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = sample(sorted(books.glob("*.txt")), size=size)
        out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


def difference_in_saelens(folder: Path, store: ActivationStore, out: Path) -> float:
    """Largest difference between SAELens's reconstruction and ours, over the root mean square of the activations."""
    exported, given, returned = out / "saelens", out / "x.safetensors", out / "returned.safetensors"
    if not exported.exists():
        interp("sae", "convert", folder, "--to", "saelens", "--out", exported)
    x = next(iter(store.batches(SITE, 2048, seed=1)))
    save_file({"x": x.contiguous()}, given)
    subprocess.run([peer_python("saelens"), "-c", IN_SAELENS, exported, given, returned], check=True)
    theirs = load_file(returned)["x_hat"]
    with torch.no_grad():
        ours = SAE.load(folder)(x)
    return float((theirs - ours).abs().max() / x.square().mean().sqrt())


def row(name: str, report: dict[str, Any]) -> str:
    cells = []
    for keys in FIGURES.values():
        estimate: Any = report
        for key in keys:
            estimate = estimate[key]
        cells.append(f"{estimate['value']:.3f} ± {estimate['standard_error']:.3f}")
    return "| " + " | ".join([name, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--heldout-tokens", type=int, default=30_000)
    parser.add_argument("--k", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--d-sae", type=int, nargs="+", default=[4608])
    parser.add_argument("--lr", type=float, help="by default that of interp train")
    options = parser.parse_args()
    out, store = options.out, options.out / "acts"
    train = write_sample(options.train, out / "train.jsonl", 5 * options.tokens)
    heldout = write_sample(options.heldout, out / "heldout.jsonl", 6 * options.heldout_tokens)
    interp(
        *("cache", MODEL, "--sites", SITE, "--data", train, "--tokens", options.tokens, "--out", store),
        *("--context", 256, "--drop-norm-above", 10),
    )
    common = (
        "train",
        "--store",
        store,
        "--site",
        SITE,
        "--batch-size",
        2048,
        "--tokens",
        options.epochs * options.tokens,
        *(() if options.lr is None else ("--lr", options.lr)),
    )
    widths = ",".join(map(str, options.d_sae))
    ks = ",".join(map(str, options.k))
    interp(*common, "--out", out / "topk", "--activation", "topk", "--k", 1, "--sweep", f"k={ks}", f"d_sae={widths}")
    interp(*common, "--out", out / "afa", "--activation", "afa", "--sweep", f"d_sae={widths}")
    print(f"| SAE | {' | '.join(FIGURES)} | SAELens |\n|---{'|---:' * (len(FIGURES) + 1)}|")
    lines = []
    for folder in sorted(path.parent for path in out.glob("*/*/cfg.json")):
        if folder.name == "saelens":
            continue
        report = folder / "eval.json"
        if not report.is_file():
            interp(
                "eval",
                folder,
                "--data",
                heldout,
                "--tokens",
                options.heldout_tokens,
                "--first-position",
                1,
                "--save",
                report,
            )
        lines.append(row(f"{folder.parent.name} {folder.name}", json.loads(report.read_text(encoding="utf-8"))))
        if folder.parent.name == "topk":
            lines[-1] += f" {difference_in_saelens(folder, ActivationStore(store), folder):.1e} |"
        else:
            lines[-1] += " none of its kind |"
    print("\n".join(lines))
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores, {about['date']}; {len(ActivationStore(store)):,} activations cached"
    )


if __name__ == "__main__":
    main()
