"""One prompt whose sources are taken out, and other prompts on which the same edges are measured again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from circuits.graphs.graph import LATENT, TARGET, AttributionGraph
from circuits.graphs.interventions.reruns import Readout, Reruns
from circuits.graphs.linear.local_model import UNEMBEDDING, Injection, local_model, prompt_ids
from circuits.graphs.linear.sources import Sources
from circuits.graphs.linear.targets import Target
from circuits.graphs.measured.measurement import Replication
from circuits.tasks.task import Task

LEAST_PROMPTS = 3
"""Fewer prompts in which both ends are active say nothing of an edge."""
_CONFIDENCE = 0.95


class MeasuredPrompt:
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


def others_of(graph: AttributionGraph, prompts: Task | Iterable[Any]) -> list[tuple[Tensor, tuple[Target, ...]]]:
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


def replicated(
    graph: AttributionGraph,
    others: Sequence[tuple[Tensor, tuple[Target, ...]]],
    taken: np.ndarray,
    ends: np.ndarray,
    where: tuple[np.ndarray, np.ndarray],
    sign: np.ndarray,
    mode: str,
    rows: int,
) -> tuple[Replication, int]:
    """The edges on other prompts, and how many forwards that took.

    Args:
        graph: The graph whose edges they are.
        others: What :func:`others_of` returned.
        taken: Nodes that are taken out, ``[source]``.
        ends: Nodes that are read, ``[end]``.
        where: Of every edge its source among ``taken`` and its target among ``ends``.
        sign: Of every edge.
        mode: One of ``circuits.graphs.interventions.changes.MODES``.
        rows: Sources a forward.
    """
    effects, both, forwards = [], [], 0
    latent_ends = graph.nodes.kind[ends] == LATENT
    for ids, targets in others:
        prompt = MeasuredPrompt(graph, ids, targets, ends)
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
