"""When a small network begins to learn from its context, with parts of the circuit held perfect in every forward pass.

The clamping experiment of Singh et al. 2024 (arXiv 2404.07129) in miniature: two pairs of new classes, four labels, one
head a layer. Prints a Markdown table; runs stay in --out, where killed ones continue.
"""

import argparse
import statistics
from pathlib import Path

from interp.in_context import TrainConfig, train

CONDITIONS = {
    (): 3000,
    ("previous",): 3000,
    ("first",): 1000,
    ("copy",): 1000,
    ("first", "copy"): 1000,
    ("match",): 1000,
}
"""What is clamped, and for how many steps it is trained."""
REACHED = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/icl_clamps"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(f"| clamped | step at which accuracy reaches {REACHED}, by seed | median |")
    print("|---|---|---:|")
    for clamped, steps in CONDITIONS.items():
        reached = []
        for seed in range(options.seeds):
            config = TrainConfig(
                classes=8,
                labels=4,
                pairs=2,
                burstiness=1,
                novel=1.0,
                hidden=32,
                batch=64,
                learning_rate=3e-3,
                steps=steps,
                checkpoints=40,
                sequences=300,
                clamped=clamped,
                seed=seed,
            )
            run = train(config, options.out / "-".join((*clamped, str(seed))))
            curve = run.curve("novel")
            reached.append(next((s for s, a in zip(run.steps, curve, strict=True) if a >= REACHED), float("inf")))
        shown = ", ".join("never" if step == float("inf") else f"{step:,}" for step in reached)
        print(f"| {' and '.join(clamped) or 'nothing'} | {shown} | {statistics.median(reached):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
