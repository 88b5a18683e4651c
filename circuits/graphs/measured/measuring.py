"""Edges held against the model: sources are taken out one by one, and every target is read.

An edge is a claim about the frozen linear map. Here each source of a pruned graph is removed from what MLPs write (a
token from the embedding), once ``direct``, once with frozen patterns, once in the live model; the fall of each target
stands beside the edge and beside the sum over all paths of the linear graph. One forward a source serves all its
targets. Over other prompts of a task the same edges are measured again, and random latents, matched in layer and size,
show what any source would do.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from circuits.graphs.graph import LATENT, TARGET, AttributionGraph, PrunedGraph
from circuits.graphs.interventions.changes import MODES
from circuits.graphs.linear.sources import Columns
from circuits.graphs.measured.measurement import Measurement
from circuits.graphs.measured.prompts import MeasuredPrompt, others_of, replicated
from circuits.tasks.task import Task

_NULL_SHARE, _CANDIDATES = 0.95, 5


def measure(
    pruned: PrunedGraph,
    *,
    prompts: Task | Iterable[str | Sequence[int] | Tensor] | None = None,
    modes: Sequence[str] = MODES,
    null: bool = True,
    mode: str = "live",
    rows: int = 64,
    seed: int = 0,
) -> Measurement:
    """Measure every edge of a pruned graph.

    Args:
        pruned: With its model at hand.
        prompts: Other prompts of the same length, in which positions mean the same: a task (its clean prompts), texts
            or ids. Where the graph's own prompt is one of a task's, targets that are its answers become the answers
            of each prompt.
        modes: In which the graph's own prompt is measured.
        null: Also measure matched random latents.
        mode: For the null and other prompts.
        rows: Sources a forward.
        seed: Of the choice among matched latents.

    Raises:
        ValueError: modes, prompts or rows that do not fit; a graph without its model, or without an edge.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import measure
        >>> measured = measure(graph.prune(nodes=0.4), modes=["live"], null=False)
        >>> list(measured.effects)
        ['live']
    """
    if wrong := [each for each in (*modes, mode) if each not in MODES]:
        raise ValueError(f"mode {wrong[0]!r} is not one of {', '.join(MODES)}")
    if rows < 1:
        raise ValueError(f"rows is {rows}; it must be 1 or more")
    graph = pruned.graph
    if not pruned.links:
        raise ValueError("the pruned graph has no edge to measure; keep larger shares: prune(nodes=1.0, edges=1.0)")
    _ = graph.reruns  # refuses a graph without its model
    source = np.array([link[0] for link in pruned.links])
    target = np.array([link[1] for link in pruned.links])
    ends = np.unique(target)
    taken = np.unique(source)
    own = MeasuredPrompt(graph, graph.source.ids, graph.source.targets, ends)
    where = (np.searchsorted(taken, source), np.searchsorted(ends, target))
    effects = {each: own.effects(each, taken, rows)[0][where] for each in modes}
    effect = effects[mode] if mode in effects else own.effects(mode, taken, rows)[0][where]
    forwards = own.reruns.forwards + 1
    of_null, bound = None, None
    if null:
        chosen = _matched(graph, own.sources.columns, pruned.kept, taken, np.random.default_rng(seed))
        before = own.reruns.forwards
        of_null = own.effects_of_columns(mode, chosen, rows)
        bound = _null_bound(graph, own.sources.columns, chosen, of_null, ends)[where[1]]
        forwards += own.reruns.forwards - before
    again = None
    if prompts is not None:
        others = others_of(graph, prompts)
        again, more = replicated(graph, others, taken, ends, where, np.sign(pruned_values(pruned)), mode, rows)
        forwards += more
    return Measurement(
        pruned=pruned,
        source=source,
        target=target,
        predicted=pruned_values(pruned),
        total=_total_effects(graph, taken, ends)[where],
        effects=effects,
        null=None if of_null is None else torch.from_numpy(of_null),
        null_bound=bound,
        null_mode=mode,
        in_null_mode=effect,
        replication=again,
        forwards=forwards,
    )


def pruned_values(pruned: PrunedGraph) -> np.ndarray:
    """The direct effects of its edges, in their order."""
    return np.array([link[2] for link in pruned.links])


def _total_effects(graph: AttributionGraph, taken: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """``[source, end]`` over all paths: active latents move by as much as their pre-activations."""
    latents = np.flatnonzero(graph.mask(LATENT))
    known = np.flatnonzero(graph.mask(LATENT, TARGET))
    rows = sparse.csc_array(graph.adjacency[known].astype(np.float64))
    of_latents = rows[:, latents] @ sparse.diags_array(1 / graph.pre_activation[latents])
    square = sparse.hstack([of_latents, sparse.csc_array((len(known), len(known) - len(latents)))])
    solver = splu(sparse.csc_matrix(sparse.eye_array(len(known)) - square), permc_spec="NATURAL")
    totals = solver.solve(rows[:, taken].toarray())
    return totals[np.searchsorted(known, ends)].T


def _matched(
    graph: AttributionGraph, columns: Columns, kept: np.ndarray, taken: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each latent that is taken out another active one of its layer that the pruned graph does not hold: a random
    one of the few nearest in position first, then in the norm of what it writes."""
    transcoders = {one.layer: one for one in graph.source.transcoders}
    n = graph.nodes
    held = {(n.layer[i], n.position[i], n.index[i]) for i in kept if n.kind[i] == LATENT}
    active = np.flatnonzero(columns.kind == LATENT)
    norms = {layer: one.part.decoder_norms().detach().cpu().numpy() for layer, one in transcoders.items()}
    outside = [i for i in active if (columns.layer[i], columns.position[i], columns.index[i]) not in held]
    found = []
    for node in taken[n.kind[taken] == LATENT]:
        layer = int(n.layer[node])
        candidates = np.array([i for i in outside if columns.layer[i] == layer], dtype=int)
        if not len(candidates):
            continue
        size = graph.pre_activation[node] * norms[layer][n.index[node]]
        sizes = columns.value[candidates] * norms[layer][columns.index[candidates]]
        away = columns.position[candidates] != n.position[node]
        order = np.lexsort([np.abs(np.log(sizes / size)), away])
        found.append(int(rng.choice(candidates[order[:_CANDIDATES]])))
    return np.array(found, dtype=int)


def _null_bound(
    graph: AttributionGraph, columns: Columns, chosen: np.ndarray, of_null: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """For each end the 95 % quantile of what matched latents that come before it do."""
    n, bounds = graph.nodes, np.full(len(ends), np.nan)
    for number, end in enumerate(ends):
        before = (columns.layer[chosen] < n.layer[end]) & (columns.position[chosen] <= n.position[end])
        if before.any():
            bounds[number] = np.quantile(np.abs(of_null[before, number]), _NULL_SHARE)
    return bounds
