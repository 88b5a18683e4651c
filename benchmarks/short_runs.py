"""How near to ``--l0`` do short runs end, before the shift at their end and after it, and what does the shift cost?

    python benchmarks/short_runs.py --steps 20 100 200 --l0 8 32 --seeds 3

The embedded model, layer 2, 768 latents, batches of 2,048, all else by default (``sae_quality.py``, whose rows these
are). Measured on a tenth of these rows, drawn at random, which nobody is trained on: of the same documents, so that as
many latents are active on them as in training.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from interleave import RESULTS, machine
from sae_quality import BATCH, EMBEDDED, Rows, figures_of, prepared, shown, summary

from interp.embedded import TEXT_FOLDER
from interp.files.writing import write_json
from saes import TrainConfig, train
from saes.training import finishing

VARIANTS = ("jumprelu", "gated", "relu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sae-quality"), help="where the rows are, or come to be")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100, 200])
    parser.add_argument("--l0", type=float, nargs="+", default=[8.0, 32.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ours", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows = prepared(EMBEDDED, out, TEXT_FOLDER / "train.jsonl", 300_000)[0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    unseen, data = rows.tensor_split([len(rows) // 10])
    shift, folder = finishing.calibrate, out / "short-runs"
    table = []
    print("| L0 asked for | SAE | steps | shift | FVU | L0 | dead |\n|---:|---|---:|---|---:|---:|---:|", flush=True)
    for l0 in options.l0:
        for who in options.ours:
            for steps in options.steps:
                for shifted in (False, True):
                    its = []
                    for seed in range(options.seeds):
                        config = TrainConfig(
                            site=EMBEDDED.site, out=folder, activation=who, d_sae=EMBEDDED.d_sae, batch_size=BATCH,
                            tokens=steps * BATCH, seed=seed, data_seed=seed, l0=l0,
                        )  # fmt: skip
                        shutil.rmtree(folder, ignore_errors=True)
                        finishing.calibrate = shift if shifted else _nothing
                        its.append(figures_of(train(config, Rows(data, EMBEDDED.model)), unseen))
                        shutil.rmtree(folder)
                    table.append({"l0": l0, "who": who, "steps": steps, "shift": shifted, "seeds": its})
                    cells = " | ".join(shown(summary(its)))
                    print(f"| {l0:g} | {who} | {steps} | {'yes' if shifted else 'no'} | {cells} |", flush=True)
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
    write_json(RESULTS / "short-runs.json", {"machine": about, "settings": settings, "table": table})


def _nothing(*_arguments: object, **_options: object) -> None:
    """In place of the shift: what training has left."""


if __name__ == "__main__":
    main()
