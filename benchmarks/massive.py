"""What measuring costs: ``layer_stats`` of a model of Pythia-160m's size against its plain forward pass, in turn.

``python benchmarks/massive.py`` prints CPU seconds, which other work on the machine changes little, and their ratio.
The weights are random; nothing is fetched.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from interp.massive import layer_stats
from interp.models import load_model


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of one call, over all threads."""
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
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
