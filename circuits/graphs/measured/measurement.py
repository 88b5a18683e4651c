"""What was measured of a graph's edges, and how it goes with what the graph says."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from circuits.graphs.graph import PrunedGraph
from circuits.graphs.linear.sources import KINDS
from interp.terminal.short_repr import short_repr

VERDICTS = ("replicates", "this prompt only", "contradicted")


@dataclass(frozen=True, kw_only=True, eq=False)
class Replication:
    """The same edges on other prompts, in one mode; arrays over edges."""

    mode: str
    """One of ``circuits.graphs.interventions.changes.MODES``, in which it was measured."""
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

    __repr__ = short_repr

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
