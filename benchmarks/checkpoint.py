"""What share of a training run its checkpoints take.

python benchmarks/checkpoint.py --d-in 512 --d-sae 32768
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from interleave import machine
from train_step_workers import BATCHES, InMemory, Settings

from saes import TrainConfig
from saes.training.checkpoints import save_checkpoint
from saes.training.initial import initial_state
from saes.training.step import train_step


def median_seconds(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=32_768)
    parser.add_argument("--batch", type=int, default=2048)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        data = Settings(asked.d_in, asked.d_sae, 32, asked.batch, torch.get_num_threads(), folder).activations()
        config = TrainConfig(
            site="blocks.0.hook_resid_post",
            out=out,
            k=32,
            d_sae=asked.d_sae,
            batch_size=asked.batch,
            tokens=10_000 * asked.batch,
        )
        state = initial_state(config, InMemory(data))
        batches = data.split(asked.batch)
        train_step(state, batches[0], config)
        step = median_seconds(lambda: train_step(state, batches[state.step % BATCHES], config), 9)
        checkpoint = median_seconds(lambda: save_checkpoint(state, out), 5)
        size = max(path.stat().st_size for path in out.glob("checkpoints/*")) / 2**20
    every = config.checkpoint_every
    share = checkpoint / (checkpoint + every * step)
    print(f"step {step * 1e3:.1f} ms, checkpoint {checkpoint * 1e3:.0f} ms ({size:.0f} MiB), one every {every} steps:")
    print(f"{100 * share:.2f} % of the time ({machine()['cpu']}, {machine()['cores']} cores, {machine()['date']})")


if __name__ == "__main__":
    main()
