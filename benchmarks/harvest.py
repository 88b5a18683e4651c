"""How fast is the residual stream harvested, next to plain transformers (the floor) and to peers?

python benchmarks/harvest.py --shape gpt2 --layers middle --dtype float32 --rounds 7
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from harvest_workers import CONTESTANTS, Settings, build_config
from interleave import Entry, interleave, machine, save, table
from peers import peer_python
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
ENVIRONMENT_OF = {"saelens-store": "saelens"}
FLOOR = "transformers-stop-hook"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("gpt2", "pythia-70m"), default="gpt2")
    parser.add_argument("--layers", choices=("middle", "all"), default="middle")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model's weights")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help="comma separated; the floor always runs")
    options = parser.parse_args()
    contestants = [FLOOR, *(name for name in options.contestants.split(",") if name != FLOOR)]
    if unknown := set(contestants) - set(CONTESTANTS):
        parser.error(f"unknown contestants {sorted(unknown)}; there are {', '.join(CONTESTANTS)}")

    with tempfile.TemporaryDirectory() as scratch:
        settings = make_settings(options, Path(scratch))
        settings_file = Path(scratch) / "settings.json"
        settings_file.write_text(json.dumps(dataclasses.asdict(settings)))
        measured = interleave(
            [Entry(name, worker_command(name, settings_file)) for name in contestants],
            rounds=options.rounds,
            warm_up=options.warm_up,
            threads=options.threads,
            results=Path(scratch),
            compare=largest_difference,
        )
    about = machine()
    print(
        f"## {options.shape}, {options.layers} ({len(settings.layers)} layers), {options.dtype} weights, "
        f"{options.rows} x {options.context} tokens, {options.threads} threads, {options.rounds} rounds\n"
    )
    print(table(measured, tokens=options.rows * options.context))
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    path = save(f"harvest-{options.shape}-{options.layers}-{options.dtype}", measured, vars(options))
    print(f"Wrote {path}")


def make_settings(options: argparse.Namespace, scratch: Path) -> Settings:
    """Write one set of random weights and name the layers: the middle one (after 7 of 12 or 4 of 6 blocks), or all."""
    config = build_config(options.shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    weights = scratch / "weights.safetensors"
    # Tied weights share memory, which safetensors refuses: save the embedding and tie again on loading.
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    save_file({name: value for name, value in model.state_dict().items() if name not in tied}, weights)
    layer_count = config.num_hidden_layers
    return Settings(
        shape=options.shape,
        layers=(layer_count // 2,) if options.layers == "middle" else tuple(range(layer_count)),
        dtype=options.dtype,
        rows=options.rows,
        context=options.context,
        threads=options.threads,
        weights=str(weights),
        scratch=str(scratch),
    )


def worker_command(contestant: str, settings_file: Path) -> tuple[str, ...]:
    environment = ENVIRONMENT_OF.get(contestant)
    python = str(peer_python(environment)) if environment else sys.executable
    return python, str(HERE / "harvest_workers.py"), contestant, str(settings_file)


def largest_difference(floor: Path, other: Path) -> str:
    """Largest absolute difference over all layers, in units of the floor's standard deviation."""
    expected, got = load_file(floor), load_file(other)
    if expected.keys() != got.keys() or any(expected[name].shape != got[name].shape for name in expected):
        return "SHAPES DIFFER"
    return f"{max(float((expected[name] - got[name]).abs().max() / expected[name].std()) for name in expected):.0e}"


if __name__ == "__main__":
    main()
