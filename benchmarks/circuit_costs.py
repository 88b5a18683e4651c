"""What circuits cost: exact patching in batches against one cell at a time, and scores under rules against AtP.

    python benchmarks/circuit_costs.py                         # the embedded model
    python benchmarks/circuit_costs.py --model smollm2-135m

prints CPU seconds, which other work on the machine changes little, of contestants that take turns. One cell at a time
is measured twice: by our own passes with the same hooks, and by the hooks of a TransformerLens bridge.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import circuits
from circuits import Task
from circuits.anatomy.nodes import node_hooks
from circuits.runs.pair import contrast, open_session
from interp import load_model

NODES = ("resid_pre", "attn_out", "mlp_out")


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of one call, over all threads."""
    began = time.process_time()
    run()
    return time.process_time() - began


def cells_of(task: Task, layers: int, count: int) -> list[tuple[int, int]]:
    """Layers and positions, spread evenly over those that patching changes."""
    first = int((task.clean != task.corrupt).any(0).nonzero()[0])
    every = [(layer, position) for layer in range(layers) for position in range(first, task.length)]
    return every[:: max(1, len(every) // count)]


def seconds_a_cell(model: Any, task: Task, cells: list[tuple[int, int]], rounds: int) -> tuple[float, list[float]]:
    """Of a cell patched in batches; and patched alone, by whole passes with our hooks and with the bridge's."""
    session = open_session(model, task)
    layers = node_hooks(session.anatomy, "mlp_out")
    found = contrast(session, layers)
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(len(layers))]
    _, kept = model.run_with_cache(task.source, names_filter=names)

    def ours(layer: int, position: int) -> None:
        delta = torch.zeros_like(found.difference(layers[layer]))
        delta[:, position] = found.difference(layers[layer])[:, position]
        found.measure(session.runner.forward(task.base, add={layers[layer].change: delta}).logits)

    def bridge(layer: int, position: int) -> None:
        def put(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value[:, position] = kept[names[layer]][:, position]
            return value

        with torch.no_grad():
            model.run_with_hooks(task.base, fwd_hooks=[(names[layer], put)])

    times: list[tuple[float, ...]] = []
    for _ in range(rounds):
        scores = []
        batched = cpu_seconds(
            lambda scores=scores: scores.append(circuits.attribute(model, task, nodes="mlp_out", method="patching"))
        )
        patched = int((scores[0].per_prompt != 0).any(0).sum())
        alone = [cpu_seconds(lambda one=one: [one(*cell) for cell in cells]) / len(cells) for one in (ours, bridge)]
        times.append((batched / patched, *alone))
    in_batches, *one_by_one = (statistics.median(column) for column in zip(*times, strict=True))
    return in_batches, one_by_one


def seconds_a_score(model: Any, task: Task, rounds: int) -> dict[str, float]:
    """Of scoring three families by gradients, plain and under rules."""
    variants = {
        "AtP": {"method": "atp"},
        "RelP, no_ah": {"method": "relp", "rules": "no_ah"},
        "RelP, paper": {"method": "relp", "rules": "paper"},
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, options in variants.items():
            times[name].append(cpu_seconds(lambda o=options: circuits.attribute(model, task, nodes=list(NODES), **o)))
    return {name: statistics.median(found[1:]) for name, found in times.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=12, help="how many to patch one at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    task = circuits.tasks.ioi(model.tokenizer, options.prompts)
    print(f"{options.model}, {task}, 1 thread, {options.rounds} rounds\n")
    scores = seconds_a_score(model, task, options.rounds)
    print("| three families by | CPU s | over AtP |\n|---|---|---|")
    for name, seconds in scores.items():
        print(f"| {name} | {seconds:.3f} | {seconds / scores['AtP']:.2f} |")
    cells = cells_of(task, model.cfg.n_layers, options.cells)
    batched, alone = seconds_a_cell(model, task, cells, options.rounds)
    print("\n| exact patching of mlp_out | CPU s a cell | over batches |\n|---|---|---|")
    for name, seconds in zip(("in batches", "one at a time", "one at a time, bridge"), (batched, *alone), strict=True):
        print(f"| {name} | {seconds:.4f} | {seconds / batched:.1f} |")


if __name__ == "__main__":
    main()
