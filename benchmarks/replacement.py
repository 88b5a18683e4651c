"""Which replaces the embedded model's MLPs better at equal mean L0: a transcoder set, or a cross-layer transcoder?

    python benchmarks/replacement.py --seeds 3

Both have TopK's k latents a layer and token, so their L0 is equal on every text; the same latents a layer, batches,
steps and seeds. Every figure is on held-out books; ± is one standard error over seeds, and the last line of the
table is the difference within a seed. A run that was stopped continues in ``--out``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from embedded_transcoders import BUFFER, READS, WRITES, config, heldout_rows, mixed_rows, show
from interleave import machine

from interp import load_model, metrics
from interp.store.live import LiveActivations
from saes.evaluation.places_report import PlacesReport, evaluate_places
from saes.places import Dictionary
from saes.training import train_all, with_places

KINDS = ("transcoders", "clt")
FIGURES: dict[str, Callable[[PlacesReport], float]] = {
    "FVU": lambda r: r.fvu.value,
    "L0": lambda r: r.l0.value,
    "KL, true stream": lambda r: r.true_stream.kl.value,
    "KL, compounding": lambda r: r.compounding.kl.value if r.compounding else float("nan"),
    "CE added, compounding": lambda r: r.compounding.ce_difference.value if r.compounding else float("nan"),
    "top-1, compounding": lambda r: r.compounding.top_1.value if r.compounding else float("nan"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/replacement"))
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--heldout-tokens", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("embedded", device="cpu")
    rows = mixed_rows(model, options.out / "tokens", options.tokens)
    live = LiveActivations(model, rows, [*READS, *WRITES], buffer_tokens=BUFFER)
    changes = {"activation": "topk", "k": options.k, "d_sae": options.d_sae}
    runs = [
        config(options.out / f"{kind}-{seed}", options.tokens, kind=kind, seed=10_000 * seed, **changes)
        for kind in KINDS
        for seed in range(options.seeds)
    ]
    trained = train_all([with_places(run, live) for run in runs], live, progress=True)
    text = heldout_rows(model, options.out / "heldout", options.heldout_tokens)["text"]
    reports = []
    for dictionary in trained:
        assert isinstance(dictionary, Dictionary)
        reports.append(evaluate_places(dictionary, model, text, max_tokens=options.heldout_tokens))
    values = {name: torch.tensor([figure(r) for r in reports]).view(2, -1) for name, figure in FIGURES.items()}
    print("| | parameters | " + " | ".join(FIGURES) + " |\n|---" + "|---:" * (1 + len(FIGURES)) + "|")
    for number, kind in enumerate(KINDS):
        parameters = sum(p.numel() for p in trained[number * options.seeds].parameters())
        cells = [show(metrics.mean(value[number])) for value in values.values()]
        print(f"| {kind} | {parameters:,} | {' | '.join(cells)} |")
    differences = [show(metrics.mean(value[1] - value[0])) for value in values.values()]
    print(f"| clt - transcoders, by seed | | {' | '.join(differences)} |")
    about, report = machine(), reports[0]
    print(f"{report.tokens:,} held-out tokens, CE clean {show(report.ce_clean)}; {options.tokens:,} tokens of training")
    print(f"{about['cpu']}, {about['cores']} cores, {about['date']}")


if __name__ == "__main__":
    main()
