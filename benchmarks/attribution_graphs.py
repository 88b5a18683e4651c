"""Do the edges of attribution graphs hold? The embedded model with the transcoder set that ships, on two tasks.

    python benchmarks/attribution_graphs.py                          # tables
    python benchmarks/attribution_graphs.py --figure docs/graph-edges.svg
    python benchmarks/attribution_graphs.py --memory 2000            # a long prompt at SmolLM2's size, random weights

Of each task the graphs of some prompts are measured: every source of the pruned graph is taken out of the model, on its
own prompt and on all others of the task.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from interleave import machine
from transformers import LlamaConfig, LlamaForCausalLM

from circuits import attribution_graph, tasks
from circuits.graphs import Difference, Measurement, measure, plan_graph
from circuits.graphs.measured.measurement import VERDICTS
from interp import load_model
from interp.files.writing import atomic_path, write_json
from interp.pages.html_page import COLORS, Page
from saes import TopK
from saes.places import Dictionary, Layout

TASKS = {"ioi": tasks.ioi, "induction": tasks.induction}


def measured_graphs(name: str, *, prompts: int, graphs: int) -> list[Measurement]:
    """Graphs of the first prompts of a task, each measured on all others."""
    model = load_model("embedded")
    task = TASKS[name](model.tokenizer, prompts, 0)
    found = []
    for row in range(graphs):
        answer = Difference(int(task.correct[row, 0]), int(task.wrong[row, 0]))
        graph = attribution_graph(model, task.clean[row], "embedded", targets=[answer])
        found.append(measure(graph.prune(), prompts=task, seed=row))
    return found


def mean(values: Sequence[float], digits: int = 2) -> str:
    """With its standard error over graphs."""
    kept = np.array([value for value in values if not np.isnan(value)])
    if not len(kept):
        return "—"
    error = f" ± {kept.std(ddof=1) / len(kept) ** 0.5:.{digits}f}" if len(kept) > 1 else " (n = 1)"
    return f"{kept.mean():.{digits}f}{error}"


def print_tables(found: dict[str, list[Measurement]]) -> None:
    """Scores, agreement by mode, verdicts by kind of edge."""
    print("| task | graphs | edges a graph | replacement | completeness | above the null | hold |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, its in found.items():
        scores = [one.pruned.graph.scores for one in its]
        print(
            f"| {name} | {len(its)} | {mean([len(one) for one in its], 0)} | {mean([s.replacement for s in scores], 3)}"
            f" | {mean([s.completeness for s in scores], 3)} | {mean([one.above_null.mean() for one in its])}"
            f" | {mean([one.holds.mean() for one in its])} |"
        )
    print("\n| task | mode | r with edges | slope | r with all paths | slope |\n|---|---|---:|---:|---:|---:|")
    for name, its in found.items():
        for mode in ("direct", "frozen_attention", "live"):
            edge, paths = ([one.agreement(mode, total=total) for one in its] for total in (False, True))
            pairs = [(which, key) for which in (edge, paths) for key in ("correlation", "slope")]
            cells = [mean([getattr(one, key) for one in which]) for which, key in pairs]
            print(f"| {name} | {mode} | {' | '.join(cells)} |")
    print(f"\n| task | edge | edges | {' | '.join(VERDICTS)} | r, live | r, live, all paths |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, its in found.items():
        for kind in sorted({kind for one in its for kind in one.kind.tolist()}):
            chosen = [one.kind == kind for one in its]
            shares = [
                mean([np.mean([v == verdict for v, c in zip(one.replication.verdict, mine, strict=True) if c])
                      for one, mine in zip(its, chosen, strict=True) if mine.any()])
                for verdict in VERDICTS
            ]  # fmt: skip
            agreements = [
                [one.agreement("live", chosen=mine, total=total) for one, mine in zip(its, chosen, strict=True)]
                for total in (False, True)
            ]
            rs = [mean([one.correlation for one in some]) for some in agreements]
            print(f"| {name} | {kind} | {sum(int(mine.sum()) for mine in chosen)} | {' | '.join([*shares, *rs])} |")


def write_figure(found: dict[str, list[Measurement]], path: Path) -> None:
    """Verdicts by layers between."""
    figure = go.Figure()
    for number, verdict in enumerate(VERDICTS):
        labels: list[list[str]] = [[], []]
        shares = []
        for name, its in found.items():
            distance = np.concatenate([one.distance for one in its])
            same = np.concatenate([[v == verdict for v in one.replication.verdict] for one in its])
            for d in sorted(set(distance.tolist())):
                labels[0].append(name)
                labels[1].append(str(d))
                shares.append(same[distance == d].mean())
        figure.add_bar(x=labels, y=shares, name=verdict, marker_color=COLORS[(2, 5, 3)[number]])
    prompts = next(iter(found.values()))[0].replication.prompts
    figure.update_layout(
        title=f"Edges taken out of the live model on {prompts} other prompts, by layers between their ends",
        barmode="stack", yaxis_title="share of edges", yaxis_range=[0, 1],
    )  # fmt: skip
    write_svg(figure, path)


def write_svg(figure: go.Figure, path: Path, *, width: int = 760, height: int = 380) -> None:
    """A figure as SVG, drawn by plotly in a browser."""
    from playwright.sync_api import sync_playwright

    page = Page("figure").figures((figure, "")).write(path.with_suffix(".html"))
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        window = browser.new_page()
        window.goto(page.as_uri())
        size = f'{{format: "svg", width: {width}, height: {height}}}'
        picture = window.evaluate(f'Plotly.toImage(document.querySelector(".js-plotly-plot"), {size})')
        svg = window.evaluate("url => fetch(url).then(found => found.text())", picture)
        browser.close()
    page.unlink()
    with atomic_path(path) as partial:
        partial.write_text(svg, encoding="utf-8")


def summary(found: Measurement) -> dict[str, object]:
    """One measured graph, without its edges."""
    return {
        "prompt": found.pruned.graph.prompt,
        "scores": asdict(found.pruned.graph.scores),
        "edges": len(found),
        "forwards": found.forwards,
        "other prompts": found.replication.prompts,
        "agreement": {mode: asdict(found.agreement(mode)) for mode in found.effects},
        "with all paths": {mode: asdict(found.agreement(mode, total=True)) for mode in found.effects},
        "verdicts": {verdict: found.replication.share(verdict) for verdict in VERDICTS},
        "above the null": float(found.above_null.mean()),
        "hold": float(found.holds.mean()),
    }


def memory(tokens: int, max_nodes: int) -> None:
    """A prompt of so many tokens, a model of SmolLM2-135M's shape, 30 transcoders of 2,048 latents, TopK 32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    reads, writes = (tuple(f"blocks.{i}.{name}" for i in range(30)) for name in ("mlp.hook_in", "hook_mlp_out"))
    made = Dictionary(Layout("transcoders", reads, writes), ((576,) * 30,) * 2, d_sae=2048, activation=TopK(32))
    made.initialise(seed=0, means=[torch.zeros(576)] * 30)
    ids = torch.randint(0, 49152, (tokens,))
    print(f"with {max_nodes} nodes: {plan_graph(model, ids, made, max_nodes=max_nodes, targets=[5])}")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    graph = attribution_graph(model, ids, made, max_nodes=max_nodes, targets=[5])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - began
    print(
        f"{graph.cost}, {seconds:.0f} s; peak {peak / 2**20:.2f} GiB of the process ({before / 2**20:.2f} when planned)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--graphs", type=int, default=4)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--memory", type=int, help="tokens of a long prompt, in the place of everything else")
    parser.add_argument("--max-nodes", type=int, default=16, help="of the long prompt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(machine()))
    if options.memory:
        memory(options.memory, options.max_nodes)
        return
    found = {name: measured_graphs(name, prompts=options.prompts, graphs=options.graphs) for name in TASKS}
    print_tables(found)
    of_graphs = {name: [summary(one) for one in its] for name, its in found.items()}
    write_json(Path(__file__).parent / "results/attribution_graphs.json", {"machine": machine(), "graphs": of_graphs})
    if options.figure is not None:
        write_figure(found, options.figure)


if __name__ == "__main__":
    main()
