"""Edges held against the model: sources are taken out one by one, and every target is read.

An edge is a claim about the frozen linear map. Here each source of a pruned graph is removed from what MLPs write (a
token from the embedding), once ``direct``, once with frozen patterns, once in the live model; the fall of each target
stands beside the edge and beside the sum over all paths of the linear graph. One forward a source serves all its
targets. Over other prompts of a task the same edges are measured again, and random latents, matched in layer and size,
show what any source would do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse, stats
from scipy.sparse.linalg import splu
from torch import Tensor

from circuits.graphs.graph import LATENT, TARGET, AttributionGraph, PrunedGraph
from circuits.graphs.interventions import MODES, Readout, Reruns
from circuits.graphs.local_model import UNEMBEDDING, Injection, local_model, prompt_ids
from circuits.graphs.sources import KINDS, Columns, Sources
from circuits.graphs.targets import Target
from circuits.tasks.task import Task

VERDICTS = ("replicates", "this prompt only", "contradicted")
LEAST_PROMPTS = 3
"""Fewer prompts in which both ends are active say nothing of an edge."""
_CONFIDENCE, _NULL_SHARE, _CANDIDATES = 0.95, 0.95, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Replication:
    """The same edges on other prompts, in one mode; arrays over edges."""

    mode: str
    """One of ``circuits.graphs.interventions.MODES``, in which it was measured."""
    prompts: int
    """Number of prompts beside the graph's own."""
    active: np.ndarray
    """In how many prompts source and target were both active."""
    same_sign: np.ndarray
    """In how many of these the effect had the edge's sign."""
    mean: np.ndarray
    """Mean effect over these; NaN for none."""
    standard_error: np.ndarray
    """Of the mean; NaN for fewer than two."""
    verdict: tuple[str, ...]
    """One of ``VERDICTS`` for each edge."""

    def share(self, verdict: str) -> float:
        """Share of edges with a verdict."""
        return self.verdict.count(verdict) / len(self.verdict) if self.verdict else float("nan")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How measured effects go with predicted ones, over ``n`` edges."""

    n: int
    """Number of edges that were compared."""
    correlation: float
    """Pearson's, of measured with predicted effects; NaN where it is not defined."""
    slope: float
    """Of measured on predicted, by least squares with an intercept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Effects of a pruned graph's edges; arrays over edges, in the order of ``source`` and ``target``.

    An effect is how much of the target goes when the source is taken out, so it has the sign of the edge.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> from circuits.graphs import measure
        >>> measured = measure(graph.prune(nodes=0.4), modes=["live"], null=False)
        >>> measured.agreement("live").correlation > 0
        True
    """

    pruned: PrunedGraph
    """The pruned graph whose edges were measured."""
    source: np.ndarray
    """Number of the node at which each edge begins, ``[edge]``."""
    target: np.ndarray
    """Number of the node at which each edge ends, ``[edge]``."""
    predicted: np.ndarray
    """The direct effect that the graph has for each edge, ``[edge]``."""
    total: np.ndarray
    """The sum over all paths of the graph, latents answering with slope 1."""
    effects: Mapping[str, np.ndarray]
    """By mode, what was measured."""
    null: Float[Tensor, "sources nodes"] | None
    """Effects of matched random latents on every node, in ``null_mode``."""
    null_bound: np.ndarray | None
    """Of each edge the 95 % quantile of what such latents do to its target; NaN where none comes before it."""
    null_mode: str
    """The mode of the null and of other prompts, one of ``MODES``."""
    in_null_mode: np.ndarray
    """Effects in that mode."""
    replication: Replication | None
    """The edges on other prompts; None where none were given."""
    forwards: int
    """Forward passes through the model that all of it took."""

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.source)

    @cached_property
    def above_null(self) -> np.ndarray | None:
        """Whether an edge's effect in ``null_mode`` has the edge's sign, and is larger than what matched latents do
        (where there are any to compare with)."""
        if self.null_bound is None:
            return None
        return np.sign(self.predicted) * self.in_null_mode > np.nan_to_num(self.null_bound, nan=0.0)

    @cached_property
    def distance(self) -> np.ndarray:
        """Layers between the ends of each edge; tokens are one before the first layer."""
        layer = self.pruned.graph.nodes.layer.astype(int)
        return layer[self.target] - layer[self.source]

    @cached_property
    def kind(self) -> np.ndarray:
        """Kind of each edge: its ends' kinds, such as ``latent -> target``."""
        kinds = self.pruned.graph.nodes.kind
        return np.array(
            [f"{KINDS[kinds[s]]} -> {KINDS[kinds[t]]}" for s, t in zip(self.source, self.target, strict=True)]
        )

    @cached_property
    def holds(self) -> np.ndarray:
        """Edges that are no artefact of this prompt or of any source: those that replicate (where other prompts were
        run), above the null (where it was)."""
        found = np.ones(len(self), dtype=bool)
        if self.replication is not None:
            found &= np.array([verdict == "replicates" for verdict in self.replication.verdict], dtype=bool)
        return found if self.above_null is None else found & self.above_null

    def agreement(self, mode: str, *, chosen: np.ndarray | None = None, total: bool = False) -> Agreement:
        """Of effects in a mode with the edges, or with sums over all paths."""
        chosen = np.ones(len(self), dtype=bool) if chosen is None else chosen
        x, y = (self.total if total else self.predicted)[chosen], self.effects[mode][chosen]
        if len(x) < 3 or not x.std() or not y.std():
            return Agreement(n=len(x), correlation=float("nan"), slope=float("nan"))
        fit = stats.linregress(x, y)
        return Agreement(n=len(x), correlation=float(fit.rvalue), slope=float(fit.slope))

    def table(self) -> list[tuple[str, int, Agreement, Agreement, Agreement]]:
        """By kind of edge and layer distance: kind, distance, and the agreement of ``frozen_attention`` and ``live``
        effects with the edges, and of ``live`` ones with sums over all paths; of the modes that were run."""
        rows = []
        nothing = Agreement(n=0, correlation=float("nan"), slope=float("nan"))
        for kind, distance in sorted(set(zip(self.kind.tolist(), self.distance.tolist(), strict=True))):
            chosen = (self.kind == kind) & (self.distance == distance)
            found = [
                self.agreement(mode, chosen=chosen, total=total) if mode in self.effects else nothing
                for mode, total in (("frozen_attention", False), ("live", False), ("live", True))
            ]
            rows.append((kind, distance, *found))
        return rows

    def summary(self) -> list[str]:
        """What was found, in lines."""
        lines = [f"{len(self):,} edges measured in {self.forwards:,} forwards:"]
        for mode in self.effects:
            edge, paths = self.agreement(mode), self.agreement(mode, total=True)
            lines.append(
                f"  {mode}: r = {edge.correlation:.2f}, slope {edge.slope:.2f} on edges; r = {paths.correlation:.2f},"
                f" slope {paths.slope:.2f} on sums over all paths"
            )
        if (above := self.above_null) is not None:
            lines.append(f"  above 95 % of matched random latents ({self.null_mode}): {above.mean():.0%} of edges")
        if (again := self.replication) is not None:
            shares = ", ".join(f"{again.share(name):.0%} {name}" for name in VERDICTS)
            lines.append(f"  on {again.prompts} other prompts ({again.mode}): {shares}")
        return [*lines, f"  {self.holds.mean():.0%} of edges hold in all that was asked"]

    def to_json(self) -> dict[str, Any]:
        """Edges with their measurements, as plain data."""
        name = self.pruned.graph.node
        edges = []
        for i, (s, t) in enumerate(zip(self.source.tolist(), self.target.tolist(), strict=True)):
            edge: dict[str, Any] = {
                "source": str(name(s)),
                "target": str(name(t)),
                "predicted": float(self.predicted[i]),
            }
            edge |= {"total": float(self.total[i])} | {mode: float(values[i]) for mode, values in self.effects.items()}
            if self.above_null is not None:
                edge["above_null"] = bool(self.above_null[i])
            if (again := self.replication) is not None:
                numbers = {"mean": again.mean[i], "standard_error": again.standard_error[i]}
                edge["replication"] = {
                    "verdict": again.verdict[i],
                    "active": int(again.active[i]),
                    "same_sign": int(again.same_sign[i]),
                } | {key: None if np.isnan(value) else float(value) for key, value in numbers.items()}
            edges.append(edge)
        prompts = None if self.replication is None else self.replication.prompts
        return {"forwards": self.forwards, "prompts": prompts, "null_mode": self.null_mode, "edges": edges}


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
    own = _Prompt(graph, graph.source.ids, graph.source.targets, ends)
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
        others = _others(graph, prompts)
        again, more = _replicated(graph, others, taken, ends, where, np.sign(pruned_values(pruned)), mode, rows)
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


class _Prompt:
    """One prompt with its sources, ready to have some taken out; targets are nodes of the graph, found there again."""

    def __init__(self, graph: AttributionGraph, ids: Tensor, targets: Sequence[Target], ends: np.ndarray) -> None:
        source, n = graph.source, graph.nodes
        with local_model(source.anatomy, ids, source.transcoders, kept=source.kept) as local:
            self.sources = Sources(local, source.kept, source.split)
        first = len(graph) - len(targets)
        latents = ends[n.kind[ends] == LATENT]
        injections = [targets[end - first].injection for end in ends[n.kind[ends] == TARGET]]
        sites = [one.site for one in injections if one.site != UNEMBEDDING]
        self.reruns = Reruns(source.anatomy, ids, source.transcoders, source.kept, sites)
        self.readout = Readout(source.transcoders, n.layer[latents], n.position[latents], n.index[latents], injections)
        columns = self.sources.columns
        keys = zip(
            columns.kind.tolist(),
            columns.layer.tolist(),
            columns.position.tolist(),
            columns.index.tolist(),
            strict=True,
        )
        numbers = {
            (kind, layer, p, index if kind == LATENT else 0): i for i, (kind, layer, p, index) in enumerate(keys)
        }
        self._numbers = numbers
        self._graph = graph

    def columns(self, nodes: np.ndarray) -> np.ndarray:
        """Which source of this prompt each node is; -1 for latents that are not active here."""
        n = self._graph.nodes
        keys = [
            (int(n.kind[i]), int(n.layer[i]), int(n.position[i]), int(n.index[i]) if n.kind[i] == LATENT else 0)
            for i in nodes
        ]
        return np.array([self._numbers.get(key, -1) for key in keys])

    def effects(self, mode: str, nodes: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """``[node, end]``, and which of the nodes are there; those that are not have no effect."""
        columns = self.columns(nodes)
        found = np.zeros((len(nodes), self.readout.size))
        found[columns >= 0] = self.effects_of_columns(mode, columns[columns >= 0], rows)
        return found, columns >= 0

    @torch.no_grad()
    def effects_of_columns(self, mode: str, columns: np.ndarray, rows: int) -> np.ndarray:
        """``[column, end]``: how much of each end goes when one source is taken out."""
        found = [np.zeros((0, self.readout.size))]
        clean = self.readout(self.reruns.clean.run)
        for begin in range(0, len(columns), rows):
            some = columns[begin : begin + rows]
            additions: dict[int, Tensor] = {}
            for row, column in enumerate(some.tolist()):
                for layer, position, vector in self.sources.written_by(column):
                    local = self.sources.local
                    if layer not in additions:
                        additions[layer] = local.embedding.detach().new_zeros(len(some), *local.embedding.shape)
                    additions[layer][row, position] -= vector.to(local.embedding.dtype)
            run = self.reruns.run(mode, rows=len(some), additions=additions)
            found.append((clean - self.readout(run)).numpy())
        return np.concatenate(found)


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


def _others(graph: AttributionGraph, prompts: Task | Iterable[Any]) -> list[tuple[Tensor, tuple[Target, ...]]]:
    """Other prompts, each with the targets that are meant there.

    Raises:
        ValueError: prompts of another length, with roles at different positions, or none but the graph's own.
    """
    source, answers = graph.source, None
    if isinstance(prompts, Task):
        prompts.require_aligned("replications of edges")
        every = [row.to(source.ids.device) for row in prompts.clean]
        pairs = [(int(right[0]), int(wrong[0])) for right, wrong in zip(prompts.correct, prompts.wrong, strict=True)]
        mine = [i for i, row in enumerate(every) if torch.equal(row, source.ids)]
        answers = None if not mine else (pairs[mine[0]], pairs)
    else:
        every = [prompt_ids(source.model, prompt) for prompt in prompts]
    found = []
    for number, row in enumerate(every):
        if len(row) != len(source.ids):
            raise ValueError(
                f"prompt {number} has {len(row)} tokens, the graph's {len(source.ids)}: an edge is between positions,"
                " so all prompts are of one length"
            )
        if torch.equal(row, source.ids):
            continue
        targets = source.targets
        if answers is not None:
            targets = _renamed(graph, dict(zip(answers[0], answers[1][number], strict=True)))
        found.append((row, targets))
    if not found:
        raise ValueError("prompts holds no prompt but the graph's own; replication is on others")
    return found


def _renamed(graph: AttributionGraph, answers: Mapping[int, int]) -> tuple[Target, ...]:
    """The graph's targets with other answers in the place of its prompt's."""
    source = graph.source
    root: Any = source.anatomy.root
    weight = root.get_output_embeddings().weight.detach()
    found = []
    for target in source.targets:
        old = target.tokens
        if any(token in answers for token in old):
            new = [answers.get(token, token) for token in old]
            less = weight[new[1]] if len(new) > 1 else weight.mean(0)
            injection = Injection(UNEMBEDDING, -1, weight[new[0]] - less)
            target = replace(target, injection=injection, tokens=tuple(new))
        found.append(target)
    return tuple(found)


def _replicated(
    graph: AttributionGraph,
    others: Sequence[tuple[Tensor, tuple[Target, ...]]],
    taken: np.ndarray,
    ends: np.ndarray,
    where: tuple[np.ndarray, np.ndarray],
    sign: np.ndarray,
    mode: str,
    rows: int,
) -> tuple[Replication, int]:
    effects, both, forwards = [], [], 0
    latent_ends = graph.nodes.kind[ends] == LATENT
    for ids, targets in others:
        prompt = _Prompt(graph, ids, targets, ends)
        found, there = prompt.effects(mode, taken, rows)
        active = np.ones(len(ends), dtype=bool)
        active[latent_ends] = prompt.columns(ends[latent_ends]) >= 0
        effects.append(found[where])
        both.append(there[where[0]] & active[where[1]])
        forwards += prompt.reruns.forwards + 1
    values, active = np.array(effects), np.array(both)
    n = active.sum(0)
    mean = np.divide((values * active).sum(0), n, out=np.full(len(n), np.nan), where=n > 0)
    squares = (np.square(values - np.where(n > 0, mean, 0)) * active).sum(0)
    error = np.sqrt(np.divide(squares, (n - 1) * n, out=np.full(len(n), np.nan), where=n > 1))
    same = (active & (np.sign(values) == sign)).sum(0)
    return Replication(
        mode=mode,
        prompts=len(others),
        active=n,
        same_sign=same,
        mean=mean,
        standard_error=error,
        verdict=tuple(map(verdict, n.tolist(), (mean * sign).tolist(), error.tolist())),
    ), forwards


def verdict(n: int, mean: float, error: float) -> str:
    """Of an edge over ``n`` prompts, with its mean effect signed so that the edge's own sign is positive: the 95 %
    interval of Student's t is above 0, below 0, or neither."""
    if n < LEAST_PROMPTS:
        return "this prompt only"
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1)) * error
    if mean - reach > 0:
        return "replicates"
    return "contradicted" if mean + reach < 0 else "this prompt only"
