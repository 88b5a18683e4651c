"""One prompt's attribution graph at every checkpoint of the embedded model: when are its edges born?

    python benchmarks/graphs_through_training.py --figure docs/graph-births.svg

Nodes are the same at every checkpoint: latents of the shipped transcoder set, whose encoders stay as they are. Each
checkpoint has decoders of its own, the least squares from the latents to what its MLPs write on the model's training
mixture (ridge, closed form), so a graph is exact at every checkpoint, and what latents miss is in its errors. Edges are
those of the last checkpoint's pruned graph that have the largest shares of influence, between latents, tokens and the
target. A direct effect does not depend on other latents, so only these are nodes at the checkpoints before. An edge
whose source or target is not active weighs 0. Each is fitted with the emergence curve of ``interp.trajectory``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from embedded_transcoders import heldout_rows, mixed_rows
from interleave import machine
from pictures import write_svg
from plotly.subplots import make_subplots
from scipy import sparse
from torch import Tensor

import circuits
from circuits.graphs import AttributionGraph, Difference
from circuits.graphs.graph import LATENT
from interp import capture, embedded, load_model
from interp.files.writing import write_json
from interp.pages.html_page import COLORS
from interp.sites.site import Site
from interp.trajectory import Trajectory, fit
from saes import SAE, embedded_transcoders
from saes.places import Dictionary

RIDGE = 1e-3
Key = tuple[int, int, int, int]


def vectors(model: Any, ids: Tensor, made: Dictionary) -> list[tuple[Tensor, Tensor]]:
    """What each MLP reads and writes, ``[token, d]``, without the first position of a row, which graphs leave out."""
    sites = [Site.parse(name) for name in (*made.layout.reads, *made.layout.writes)]
    found = capture(model, ids, sites)
    flat = [found[site][:, 1:].flatten(0, 1) for site in sites]
    return list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True))


def as_matrix(part: SAE, x: Tensor) -> sparse.csr_array:
    """Activations ``[token, latent]``."""
    latents = part.encode(x)
    on = latents.values != 0
    rows = torch.arange(len(x))[:, None].expand_as(on)[on]
    shape = (len(x), part.d_sae)
    return sparse.csr_array((latents.values[on].double().numpy(), (rows.numpy(), latents.indices[on].numpy())), shape)


@torch.no_grad()
def with_own_decoders(model: Any, train: Tensor, test: Tensor) -> tuple[Dictionary, float, float]:
    """The shipped set with this checkpoint's decoders; FVU over all layers and latents a token, on held-out books."""
    made = embedded_transcoders()
    pairs, unseen = vectors(model, train, made), vectors(model, test, made)
    missed = total = active = 0.0
    for (part, _), (x, y), (x_test, y_test) in zip(made.placed(), pairs, unseen, strict=True):
        f, target = as_matrix(part, x), y.double().numpy()
        mean, centre = f.mean(0), target.mean(0)
        gram = (f.T @ f).toarray() - len(target) * np.outer(mean, mean)
        gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
        rows = np.linalg.solve(gram, f.T @ target - len(target) * np.outer(mean, centre))
        part.W_dec.copy_(torch.from_numpy(rows))
        part.b_dec.copy_(torch.from_numpy(centre - mean @ rows))
        g, wanted = as_matrix(part, x_test), y_test.double().numpy()
        missed += float(np.square(wanted - (g @ rows + centre - mean @ rows)).sum())
        total += float(np.square(wanted - wanted.mean(0)).sum())
        active += g.nnz / len(wanted) / len(pairs)
    return made, missed / total, active


@torch.no_grad()
def only(made: Dictionary, kept: set[tuple[int, int]]) -> None:
    """Latents other than these, given by layer and number, are never active."""
    for layer, (part, _) in enumerate(made.placed()):
        gone = torch.tensor([(layer, latent) not in kept for latent in range(part.d_sae)])
        part.W_enc[:, gone] = 0.0
        part.b_enc[gone] = -1e6


def keys_of(graph: AttributionGraph) -> dict[Key, int]:
    """Numbers of nodes by what is the same at every checkpoint: kind, layer, position and number."""
    n = graph.nodes
    columns = (n.kind.tolist(), n.layer.tolist(), n.position.tolist(), n.index.tolist())
    return {key: number for number, key in enumerate(zip(*columns, strict=True))}


def strongest(graph: AttributionGraph, most: int) -> list[tuple[Key, Key, str]]:
    """Edges of the pruned graph between nodes that do not depend on a checkpoint (errors do), with their kind."""
    pruned = graph.prune()
    sums = np.maximum(abs(pruned.edges).sum(1), 1e-30)
    rank = lambda link: -abs(link[2]) / sums[link[1]] * (graph.influence + graph.weights)[link[1]]  # noqa: E731
    keys = {number: key for key, number in keys_of(graph).items()}
    found = []
    for source, target, _ in sorted(pruned.links, key=rank):
        kinds = [graph.node(end).kind for end in (source, target)]
        if "error" not in kinds:
            found.append((keys[source], keys[target], " -> ".join(kinds)))
    return found[:most]


def weight(graph: AttributionGraph, numbers: dict[Key, int], source: Key, target: Key) -> float:
    """Of an edge; 0 where an end is not active."""
    if source not in numbers or target not in numbers:
        return 0.0
    return float(graph.adjacency[numbers[target], numbers[source]])


def half_way(steps: list[int], values: np.ndarray) -> float:
    """The step at which an edge first has half of its last weight, between two checkpoints on a straight line."""
    share = values / values[-1]
    at = int(np.argmax(share >= 0.5))
    if at == 0:
        return float(steps[0])
    low, high = share[at - 1], share[at]
    return steps[at - 1] + (steps[at] - steps[at - 1]) * (0.5 - low) / (high - low)


def figure_of(
    names: list[str], steps: list[int], edges: list[tuple[Key, Key, str]], table: np.ndarray, fits: list[Trajectory]
) -> go.Figure:
    """Weights of the strongest edges beside their last, with the fitted curves, and births by kind."""
    figure = make_subplots(1, 2, subplot_titles=("Weights of single edges", "Edges with half of their last weight"))
    fine = np.arange(1, steps[-1] + 1)
    for number in range(4):
        color, last = COLORS[number], table[number, -1]
        style = {"color": color, "width": 1.5}
        points = {"x": np.maximum(steps, 0.5), "y": table[number] / last, "mode": "markers", "marker_color": color}
        figure.add_scatter(**points, name=names[number], row=1, col=1)
        figure.add_scatter(
            x=fine, y=np.sign(last) * fits[number].curve(fine) / abs(last), mode="lines", line=style, showlegend=False,
            row=1, col=1,
        )  # fmt: skip
    share = table / table[:, -1:]
    for number, kind in enumerate(sorted({kind for *_, kind in edges})):
        mine = np.array([its == kind for *_, its in edges])
        reached = (share[mine] >= 0.5).mean(0)
        line = {"color": COLORS[number % len(COLORS)], "dash": "dash"}
        figure.add_scatter(x=np.maximum(steps, 0.5), y=reached, line=line, name=f"{kind} ({mine.sum()})", row=1, col=2)
    figure.update_xaxes(type="log", title_text="step (0 at the left end)")
    figure.update_yaxes(range=[-0.6, 1.6], title_text="share of the last weight", row=1, col=1)
    figure.update_yaxes(range=[0, 1.05], title_text="share of edges", row=1, col=2)
    return figure.update_layout(legend_y=-0.3)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8_192, help="of the mixture, for the decoders")
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    last = load_model("embedded")
    task = circuits.tasks.ioi(last, 1)
    prompt, answer = task.clean[0], Difference(int(task.correct[0, 0]), int(task.wrong[0, 0]))
    with tempfile.TemporaryDirectory() as folder:
        train = torch.from_numpy(np.array(mixed_rows(last, Path(folder) / "train", options.tokens).ids))
        test = torch.from_numpy(np.array(heldout_rows(last, Path(folder) / "test", 5_000)["text"].ids))
    steps = embedded.steps()
    made, *figures = with_own_decoders(last, train, test)
    whole = circuits.attribution_graph(last, prompt, made, targets=[answer])
    edges = strongest(whole, options.edges)
    print(f"{last.tokenizer.decode(prompt)!r} -> {whole.target_names[0]!r}, {train.numel():,} tokens for the decoders")
    scores = whole.scores
    print(f"at the last step replacement {scores.replacement:.3f}, completeness {scores.completeness:.3f}\n")
    print("| step | target | FVU, held-out books | latents a token | edges with both ends active |")
    print("|---:|---:|---:|---:|---:|")
    kept = {key[1:4:2] for ends in edges for key in ends[:2] if key[0] == LATENT}
    columns, found = [], []
    for step in steps:
        model = load_model("embedded", revision=f"step{step}")
        made, *figures = with_own_decoders(model, train, test)
        only(made, kept)
        graph = circuits.attribution_graph(model, prompt, made, targets=[answer])
        numbers = keys_of(graph)
        columns.append([weight(graph, numbers, source, target) for source, target, _ in edges])
        found.append((*figures, sum(s in numbers and t in numbers for s, t, _ in edges)))
        fvu, l0, active = found[-1]
        print(
            f"| {step:,} | {graph.pre_activation[-1]:.2f} | {fvu:.3f} | {l0:.1f} | {active} of {len(edges)} |",
            flush=True,
        )
    table = np.array(columns).T
    # A direct effect does not depend on which other latents are nodes.
    last_numbers = keys_of(whole)
    assert np.allclose(table[:, -1], [weight(whole, last_numbers, s, t) for s, t, _ in edges], rtol=1e-3, atol=1e-4)
    fits = [fit(steps, row * np.sign(row[-1])) for row in table]
    births = np.array([half_way(steps, row) for row in table])
    print(
        "\n| kind of edge | edges | half of the last weight at step, median (quartiles) | curves |\n|---|---:|---:|---|"
    )
    for kind in sorted({kind for *_, kind in edges}):
        mine = [i for i, (*_, its) in enumerate(edges) if its == kind]
        low, middle, high = np.quantile(births[mine], (0.25, 0.5, 0.75))
        classes = ", ".join(f"{n} {name}" for name, n in Counter(fits[i].layer_class for i in mine).most_common())
        print(f"| {kind} | {len(mine)} | {middle:,.0f} ({low:,.0f} to {high:,.0f}) | {classes} |")
    print("\n| edge | weight | half of it at step | curve | R² |\n|---|---:|---:|---|---:|")
    names = [" -> ".join(str(whole.node(last_numbers[key])) for key in ends[:2]) for ends in edges[:8]]
    for i, name in enumerate(names):
        print(f"| {name} | {table[i, -1]:+.2f} | {births[i]:,.0f} | {fits[i].layer_class} | {fits[i].r2:.2f} |")
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['date']}")
    result = {
        "machine": about,
        "steps": steps,
        "fvu": [fvu for fvu, _, _ in found],
        "latents a token": [l0 for _, l0, _ in found],
        "edges": [
            {"source": list(s), "target": list(t), "kind": kind, "weights": row.tolist()}
            for (s, t, kind), row in zip(edges, table, strict=True)
        ],
    }
    write_json(Path(__file__).parent / "results/graphs_through_training.json", result)
    if options.figure is not None:
        figure = figure_of(names, steps, edges, table, fits)
        write_svg(figure, options.figure, width=900, height=380)


if __name__ == "__main__":
    main()
