"""Memory of scoring edges at the shape of GPT-2 medium: 355 million random weights, 240,901 edges.

    python benchmarks/edge_memory.py --method eap
    python benchmarks/edge_memory.py --method path-patching --edges 8

prints the largest resident memory of the process before and after, and how many prompts went through the model at
once. Patching every edge exactly would take days here, and every pass as much memory as the last: so only the first
edges are patched, on all prompts. Each method in a process of its own, since the largest memory is the process's.
"""

import argparse
import resource
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits import Task, attribute_edges
from circuits.anatomy.wiring import Wiring
from circuits.attribution.edge_patching import EdgePatcher
from circuits.runs.budget import MEMORY
from circuits.runs.pair import open_session


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def random_task(prompts: int, length: int, vocab: int) -> Task:
    """Pairs of prompts that differ in one token."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(vocab, (prompts, length), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 2] = (clean[:, 2] + 1) % vocab
    answers = torch.randint(vocab // 2, (prompts,), generator=generator)
    return Task(clean=clean, corrupt=corrupt, correct=answers, wrong=answers + vocab // 2, direction="noise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["eap", "eap-ig", "relp", "path-patching"], default="eap")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--edges", type=int, default=8, help="how many to patch exactly")
    parser.add_argument("--memory", type=int, default=MEMORY, help="budget in bytes")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = GPT2Config(n_layer=options.layers, n_head=16, n_embd=1024)
    model = GPT2LMHeadModel(config).eval()
    task = random_task(options.prompts, options.length, config.vocab_size)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    wiring = Wiring(open_session(model, task).anatomy)
    edges = wiring.mask.nonzero()
    print(f"{options.method}: {task}, {len(edges):,} edges, {weights:.2f} GB of weights; {peak():.2f} GB before")
    began = time.perf_counter()
    if options.method == "path-patching":
        patcher = EdgePatcher(open_session(model, task), wiring, memory=options.memory)
        found = patcher.effects(edges[: options.edges])
        what = f"{len(found)} edges patched, {patcher.prompts_at_once} prompts at once"
    else:
        scores = attribute_edges(model, task, method=options.method, memory=options.memory)
        what = f"all edges scored, {scores.per_prompt.numel() * 8 / 1e9:.2f} GB of scores"
    print(f"{what}: {peak():.2f} GB at most, in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
