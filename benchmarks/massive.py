"""What massive activations cost: ``layer_stats`` of a model of Pythia-160m's size against its plain forward pass, in
turn; and fits of emergence curves.

``python benchmarks/massive.py`` prints CPU seconds, which other work on the machine changes little. The weights and the
series are random; nothing is fetched.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from interp.checkpoints.schedules import PYTHIA_STEPS, choose_steps
from interp.massive import layer_stats
from interp.models.loading import load_model
from interp.trajectory.emergence_curve import EmergenceCurve
from interp.trajectory.fitting import fit_all


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of one call, over all threads."""
    began = time.process_time()
    run()
    return time.process_time() - began


def fit_seconds(series: int) -> float:
    """CPU seconds of a fit with its rivals and intervals, over planted curves with 3 % noise at 37 steps."""
    steps, rng = np.array(choose_steps("paper", PYTHIA_STEPS), dtype=np.float64), np.random.default_rng(0)
    rows = []
    for _ in range(series + 1):
        curve = EmergenceCurve(A=100.0, lam=10 ** rng.uniform(-2.5, -0.3), gamma=2e-4, t0=1.0, K=10.0)
        rows.append(curve(steps) + 0.03 * curve(steps).std() * rng.standard_normal(len(steps)))
    fit_all(steps, np.stack(rows[:1]))  # the grid's decomposition is made once
    return cpu_seconds(lambda: fit_all(steps, np.stack(rows[1:]))) / series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fits", type=int, default=40)
    options = parser.parse_args()
    each = fit_seconds(options.fits)
    print(f"{each * 1000:.0f} CPU ms a fit, so {each * 188 * 3:.0f} CPU s for 188 layers x 3 quantities")
    config = GPTNeoXConfig(
        vocab_size=50_304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        GPTNeoXForCausalLM(config).save_pretrained(folder)
        model = load_model(folder, device="cpu")
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()  # with the attention that transformers chooses
    tokens = torch.randint(0, 50_000, (options.sequences, options.context))

    @torch.no_grad()
    def forward() -> None:
        for row in tokens.split(1):
            plain(row, use_cache=False)

    pairs = [(cpu_seconds(forward), cpu_seconds(lambda: layer_stats(model, tokens))) for _ in range(options.rounds)]
    for ours, theirs in [(b, a) for a, b in pairs]:
        print(f"plain forward {theirs:.2f} s   layer_stats {ours:.2f} s   ratio {ours / theirs:.3f}")
    print(f"median ratio {statistics.median(b / a for a, b in pairs):.3f}")


if __name__ == "__main__":
    main()
