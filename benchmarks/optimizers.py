"""Which optimiser, learning rate, betas and eps train the best SAE, at equal rows, tokens and number of active latents?

    python benchmarks/optimizers.py --variants topk jumprelu --seeds 3
    python benchmarks/optimizers.py --learning-rates

The residual stream of the embedded model, layer 2 (96 wide), 768 latents, batches of 2,048, k or L0 16. Every optimiser
is trained at its default learning rate and at 0.4 and 2.5 times that; which is its best is chosen with one seed on rows
of the training documents that nobody is trained on, and every figure is of the held-out text: other books. Beside them
stand other betas and eps of Adam, at its default rate. What was measured stays in ``--out``, and a run that was stopped
continues.

``--learning-rates`` prints the table of Adam's rates in docs/sae-quality.md (one seed, on the rows to choose by), and
``--learning-rates muon`` those of another at the same points; ``--smollm2`` takes a point of SmolLM2-135M, and needs
that model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from interleave import RESULTS, machine
from sae_quality import BATCH, EMBEDDED, SMOLLM2, Rows, Setting, figures_of, prepared, shown, summary

from interp.counts import parse_count
from interp.embedded import TEXT_FOLDER
from interp.files.writing import write_json
from saes import TrainConfig, train
from saes.training.optimiser.kinds import KINDS

MULTIPLES = (1.0, 0.4, 2.5)
VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 16},
    "jumprelu": {"l0": 16.0},
    "gated": {"l0": 16.0},
    "relu": {"l0": 16.0},
}
ADAMS: dict[str, dict[str, Any]] = {
    "adam, betas 0.9 0.95": {"adam_betas": (0.9, 0.95)},
    "adam, betas 0.9 0.999": {"adam_betas": (0.9, 0.999)},
    "adam, betas 0 0.999": {"adam_betas": (0.0, 0.999)},
    "adam, eps 6.25e-10": {"adam_eps": 6.25e-10},
    "adam, eps 1e-8": {"adam_eps": 1e-8},
}
"""Beside Adam's default, betas 0.8 0.95 and eps 1e-18."""
CONTESTANTS = {name: {"optimizer": name} for name in KINDS} | ADAMS
FIGURES = ("fvu", "l0", "dead")
"""Of ``figures_of``."""
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One line of the table of learning rates."""

    k: int
    steps: int
    d_sae: int = EMBEDDED.d_sae
    batch: int = BATCH
    rates: tuple[float, ...] = RATES


POINTS = (
    Point(k=8, steps=200),
    Point(k=32, steps=200),
    Point(k=16, steps=400, d_sae=3072),
    Point(k=16, steps=1950, rates=(1e-3, 2.9e-3, 6e-3)),
    Point(k=16, steps=782, batch=512, rates=(4e-3, 6e-3, 8e-3)),
    Point(k=8, steps=196, batch=8192, rates=(8e-3, 1.4e-2, 2e-2)),
    Point(k=16, steps=196, batch=8192, rates=(8e-3, 1.4e-2, 2e-2)),
    Point(k=32, steps=196, batch=8192, rates=(8e-3, 1.4e-2, 2e-2)),
)
SMOLLM2_POINT = Point(k=32, steps=200, d_sae=SMOLLM2.d_sae, rates=(3.8e-4, 1e-3, 2e-3, 4e-3, 8e-3))


@dataclass
class Runs:
    """What was measured, by settings; trained where it is not known yet."""

    out: Path
    rows: torch.Tensor
    measured_on: dict[str, torch.Tensor]
    known: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.is_file():
            self.known = json.loads(self.file.read_text())

    @property
    def file(self) -> Path:
        return self.out / "measured.json"

    def figures(self, setting: Setting = EMBEDDED, **settings: Any) -> dict[str, float]:
        """FVU, L0 and share of dead latents on each of ``measured_on``, and seconds of one processor."""
        name = json.dumps(settings, sort_keys=True)
        if name not in self.known:
            folder = self.out / "run"
            shutil.rmtree(folder, ignore_errors=True)
            began = time.process_time()
            try:
                config = TrainConfig(site=setting.site, out=folder, **settings)
                sae = train(config, Rows(self.rows, setting.model))
                found = {"seconds": time.process_time() - began}
                for where, x in self.measured_on.items():
                    found |= {f"{where}.{figure}": value for figure, value in figures_of(sae, x).items()}
            except FloatingPointError:
                found = {f"{where}.{figure}": float("nan") for where in self.measured_on for figure in FIGURES}
                found["seconds"] = time.process_time() - began
            self.known[name] = found
            write_json(self.file, self.known)
            print(f"{name}: {found}", flush=True)
        return self.known[name]


def optimizers(
    runs: Runs, variants: list[str], contestants: list[str], seeds: int, **common: int
) -> list[dict[str, Any]]:
    """The table, of which it prints every line when it is known."""
    table = []
    print("| variant | optimiser | rate | FVU | L0 | dead | seconds |\n|---|---|---:|---:|---:|---:|---:|")
    for variant in variants:
        for who in contestants:
            own = {"activation": variant, "d_sae": EMBEDDED.d_sae}
            options = common | own | VARIANTS[variant] | CONTESTANTS[who]
            config = TrainConfig(site=EMBEDDED.site, out=runs.out, **options)
            rates = [config.peak_lr(runs.rows.shape[1]) * multiple for multiple in MULTIPLES]
            if who in ADAMS:
                rates = rates[:1]
            chosen = {rate: runs.figures(lr=rate, seed=0, data_seed=0, **options)["choice.fvu"] for rate in rates}
            best = min(chosen, key=lambda rate: (chosen[rate] != chosen[rate], chosen[rate]))
            for rate in dict.fromkeys((rates[0], best)):
                its = [runs.figures(lr=rate, seed=seed, data_seed=seed, **options) for seed in range(seeds)]
                line = summary(its)
                named = f"{rate:.2g}" + (" (default)" if rate == rates[0] else "") + (" best" * (best == rate))
                table.append({"variant": variant, "who": who, "rate": rate, "choice": chosen, **line})
                cells = [variant, who, named, *shown({name: line[f"held.{name}"] for name in FIGURES})]
                print(f"| {' | '.join(cells)} | {line['seconds'][0]:.0f} |", flush=True)
    return table


def learning_rates(
    runs: Runs, points: tuple[Point, ...], who: str, setting: Setting = EMBEDDED, **options: Any
) -> None:
    """The table of rates: of Adam those of the points, of others half, once and twice the default."""
    if who != "adam":
        options |= CONTESTANTS[who]
    print("| model, d_in, d_sae | k | steps | batch | rate: FVU (dead latents) |\n|---|---:|---:|---:|---|")
    for point in points:
        tokens = point.steps * point.batch
        settings = {"k": point.k, "d_sae": point.d_sae, "tokens": tokens, "batch_size": point.batch, **options}
        width = runs.rows.shape[1]
        default = TrainConfig(site=setting.site, out=runs.out, **settings).peak_lr(width)
        cells = []
        for rate in point.rates if who == "adam" else (default / 2, default, default * 2):
            found = runs.figures(setting, lr=rate, seed=0, data_seed=0, **settings)
            dead = round(found["choice.dead"] * point.d_sae)
            cells.append(f"{rate:.2g}: {found['choice.fvu']:.4f} ({dead:,})")
        print(
            f"| {setting.model}, {width}, {point.d_sae:,} | {point.k} | {point.steps:,} | {point.batch:,} |"
            f" {'; '.join(cells)};"
            f" default {default:.2g} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--text", type=Path, default=TEXT_FOLDER / "train.jsonl", help="to train on")
    parser.add_argument("--distinct", type=parse_count, default=300_000, help="most activations; passes repeat them")
    parser.add_argument("--tokens", type=parse_count, default=400_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heldout-tokens", type=int, default=20_000)
    parser.add_argument("--variants", nargs="+", default=["topk", "jumprelu"], choices=list(VARIANTS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument(
        "--learning-rates", nargs="?", const="adam", choices=list(CONTESTANTS), help="the table of rates instead"
    )
    parser.add_argument("--smollm2", action="store_true", help="its line of SmolLM2-135M")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    if options.smollm2:
        folder = out / SMOLLM2.model
        folder.mkdir(exist_ok=True)
        rows, choice = prepared(SMOLLM2, folder, options.text, options.distinct)
        runs = Runs(folder, rows, {"choice": choice})
        who = options.learning_rates or "adam"
        learning_rates(runs, (SMOLLM2_POINT,), who, SMOLLM2)
    else:
        rows, choice = prepared(EMBEDDED, out, options.text, options.distinct)
        held = EMBEDDED.activations(TEXT_FOLDER / "heldout.jsonl", options.heldout_tokens, out, "heldout-")
        runs = Runs(out, rows, {"choice": choice, "held": held})
        print(f"{len(rows):,} activations to train on, {len(choice):,} to choose by, batch {options.batch:,}\n")
        if options.learning_rates:
            learning_rates(runs, POINTS, options.learning_rates)
        else:
            table = optimizers(
                runs,
                options.variants,
                options.contestants,
                options.seeds,
                tokens=options.tokens,
                batch_size=options.batch,
            )
            settings = {name: str(value) for name, value in vars(options).items() if name not in ("out", "text")}
            batch = "" if options.batch == BATCH else f"-{options.batch}"
            file = RESULTS / f"optimizers-{'-'.join(options.variants)}{batch}.json"
            write_json(file, {"machine": about, "settings": settings, "table": table})
    print(f"\n{about['cpu']}, {about['cores']} cores, one thread, Python {about['python']}, {about['date']}.")


if __name__ == "__main__":
    main()
