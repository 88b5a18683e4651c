"""How many latents are dead at the end of a run, with AuxK and without, and what it costs?

    python benchmarks/dead_latents.py --k 8 16 32 --seeds 3
    python benchmarks/dead_latents.py --ours matryoshka --aux 0.03125 0.25

The embedded model, layer 2, 768 latents, batches of 2,048, all else by default (``sae_quality.py``, whose rows these
are). Measured on the rows to choose by, the last tenth of the training documents, which nobody is trained on.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

import torch
from interleave import RESULTS, machine
from sae_quality import BATCH, EMBEDDED, OURS, Rows, figures_of, prepared, shown, summary

from interp.counts import parse_count
from interp.embedded import TEXT_FOLDER
from interp.files.writing import write_json
from saes import SAE, TrainConfig, train

WEIGHT = {"jumprelu": 1.0, "gated": 1.0, "relu": 1.0, "topk": 1 / 32, "batchtopk": 1 / 32, "matryoshka": 1 / 4}
"""Of AuxK where no weight is given: the defaults, and for relu, which has none, what gated has."""


@torch.no_grad()
def dead_by_level(sae: SAE, x: torch.Tensor) -> list[float]:
    """Of Matryoshka's prefixes, the share of the latents that each adds which no row activates."""
    seen = torch.zeros(sae.d_sae, dtype=torch.bool)
    for rows in x.split(4096):
        latents = sae.encode(rows)
        seen[latents.indices[latents.values != 0]] = True
    ends = sae.activation.prefixes(sae.d_sae)
    return [1 - float(seen[begin:end].float().mean()) for begin, end in zip((0, *ends), ends, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sae-quality"), help="where the rows are, or come to be")
    parser.add_argument("--tokens", type=parse_count, default=400_000)
    parser.add_argument("--d-sae", type=int, default=EMBEDDED.d_sae)
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ours", nargs="*", default=["jumprelu", "gated"], choices=list(OURS))
    parser.add_argument("--aux", type=float, nargs="+", help="weights of AuxK; 0 and the default if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data, choice = prepared(EMBEDDED, out, TEXT_FOLDER / "train.jsonl", 300_000)
    table = []
    print("| k or L0 asked for | SAE | AuxK's weight | FVU | L0 | dead |\n|---:|---|---:|---:|---:|---:|", flush=True)
    folder = out / "dead-latents"
    for k in options.k:
        for who in options.ours:
            for aux in options.aux or (0.0, WEIGHT[who]):
                its, levels = [], []
                for seed in range(options.seeds):
                    number = {"l0": float(k)} if OURS[who] else {"k": k}
                    config = TrainConfig(
                        site=EMBEDDED.site, out=folder, activation=who, d_sae=options.d_sae, batch_size=BATCH,
                        tokens=options.tokens, seed=seed, data_seed=seed,
                        loss_weights={"aux": aux}, **number,  # type: ignore[arg-type]
                    )  # fmt: skip
                    shutil.rmtree(folder, ignore_errors=True)
                    sae = train(config, Rows(data, EMBEDDED.model))
                    its.append(figures_of(sae, choice))
                    levels.append(dead_by_level(sae, choice))
                    shutil.rmtree(folder)
                table.append({"k": k, "who": who, "aux": aux, "seeds": its})
                cells = " | ".join(shown(summary(its)))
                print(f"| {k} | {who} | {aux:.3g} | {cells} |", flush=True)
                if len(levels[0]) > 1:
                    means = [statistics.fmean(level) for level in zip(*levels, strict=True)]
                    print("dead by level:", " ".join(f"{mean:.3f}" for mean in means), flush=True)
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
    write_json(RESULTS / "dead-latents.json", {"machine": about, "settings": settings, "table": table})


if __name__ == "__main__":
    main()
