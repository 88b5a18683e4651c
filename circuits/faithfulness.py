"""How much of a behaviour a circuit accounts for: everything outside it is ablated, and the metric is looked at.

    faithfulness(C) = (m(C) - m(nothing)) / (m(model) - m(nothing))

m(C) is the task's metric on the clean prompts with every edge outside C cut, m(nothing) with all edges cut. 1: the
circuit does what the model does. Completeness is the same of the complement: near 0 if nothing that matters was left
out (Marks et al. 2024). A curve is faithfulness by size, with the areas under it and under its distance from 1; those
that the MIB benchmark calls CPR and CMD follow a recipe of its own, in ``circuits.mib.areas``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.anatomy.wiring import Wiring
from circuits.attribution.edge_patching import EdgePatcher, cut_all_but
from circuits.circuit import Circuit, Edge
from circuits.runs.budget import MEMORY
from circuits.runs.pair import open_session
from circuits.scores.uncertainty import KeptAndLeftOut, jackknife, mean_estimate
from circuits.tasks.roles import mean_over_prompts
from circuits.tasks.task import Task
from interp.metrics import Estimate
from interp.models.bridge import Model

ABLATIONS = ("resample", "mean", "zero")
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the edges: the sizes at which MIB evaluates."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness(KeptAndLeftOut):
    """Of one circuit; standard errors are over prompts, with the ends m(model) and m(nothing) taken as given."""

    model_metric: float
    """The raw metric of the whole model, which is 1 on that scale."""
    nothing_metric: float
    """The raw metric with every edge cut, which is 0 on that scale."""
    edges: int
    """How many edges the circuit has."""
    ablation: str
    """What stood in for outputs outside the circuit: ``resample``, ``mean`` or ``zero``."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Faithfulness by size; the areas have the standard error of a jackknife over prompts."""

    fractions: tuple[float, ...]
    """Share of the model's edges that were kept by score, before those on no path were dropped."""
    edges: tuple[int, ...]
    """How many edges were left at each size."""
    faithfulness: tuple[Estimate, ...]
    """Of the circuit of each size."""
    area: Estimate
    """Trapezoid area under faithfulness over the fractions: higher is better, and above 1 is possible."""
    distance: Estimate
    """Trapezoid area under ``|1 - faithfulness|``: lower is better."""
    ablation: str
    """What stood in for outputs outside the circuits: ``resample``, ``mean`` or ``zero``."""

    @property
    def n(self) -> int:
        """Prompts."""
        return self.area.n

    @property
    def standard_error(self) -> tuple[float, ...]:
        """Of ``faithfulness``."""
        return tuple(estimate.standard_error for estimate in self.faithfulness)


class Evaluator:
    """Cuts a model down to circuits of one task.

    Args:
        ablation: What the readers outside a circuit see: ``resample``, the writer's output on the corrupt prompts;
            ``mean``, its mean over them, position by position (role by role, where the task has roles); ``zero``,
            nothing.
        memory: As for :func:`circuits.attribute_edges`.

    Raises:
        ValueError: an unknown ablation; ablating everything changes nothing.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> whole = circuits.Circuit.from_edges(scores)
        >>> round(circuits.Evaluator(model, task).evaluate(whole).faithfulness, 3)
        1.0
    """

    def __init__(self, model: Model, task: Task, *, ablation: str = "resample", memory: int = MEMORY) -> None:
        if ablation not in ABLATIONS:
            raise ValueError(f"ablation {ablation!r} is not one of {', '.join(ABLATIONS)}")
        self.ablation = ablation
        # The circuit has to do the clean task, whichever way its scores were made.
        session = open_session(model, task.replace(direction="noise"))
        self.wiring = Wiring(session.anatomy)
        self._patcher = EdgePatcher(session, self.wiring, memory=memory)
        if ablation == "zero":
            self._patcher.reference = None
        elif ablation == "mean":
            corrupt = self._patcher.reference
            assert corrupt is not None
            by_position = corrupt.permute(1, 2, 0, 3)
            self._patcher.reference = mean_over_prompts(by_position, task.role_numbers).permute(2, 0, 1, 3)
        everything = self.wiring.mask
        whole, nothing = self.metric(torch.stack([torch.zeros_like(everything), everything]))
        self.model_metric, self.nothing_metric = float(whole.mean()), float(nothing.mean())
        self._range = self.model_metric - self.nothing_metric
        if abs(self._range) < 1e-6:
            raise ValueError(f"cutting every edge ({ablation} ablation) leaves {task.metric_name} as it is")

    def metric(self, cut: Tensor) -> Tensor:
        """The raw metric ``[row, n]`` with the edges ``cut [row, writer, reader]``."""
        return self._patcher.metric(len(cut), lambda rows: cut[rows])

    def cut(self, circuit: Circuit) -> Tensor:
        """The edges outside a circuit, ``[writer, reader]``."""
        return cut_all_but(self.wiring, list(circuit.edges))

    def scaled(self, cut: Tensor) -> Tensor:
        """0 with everything cut, 1 for the model; ``[row, n]``."""
        return (self.metric(cut) - self.nothing_metric) / self._range

    def evaluate(self, circuit: Circuit) -> Faithfulness:
        """Faithfulness and completeness of one circuit."""
        outside = self.cut(circuit)
        inside = self.wiring.mask & ~outside
        faithful, rest = self.scaled(torch.stack([outside, inside]))
        return Faithfulness(
            faithfulness=mean_estimate(faithful),
            completeness=mean_estimate(rest),
            model_metric=self.model_metric,
            nothing_metric=self.nothing_metric,
            edges=len(circuit.edges),
            ablation=self.ablation,
        )

    def minimality(self, circuit: Circuit) -> dict[Edge, float]:
        """By edge: what faithfulness loses when it alone is taken out of the circuit (Wang et al. 2022). Edges near 0
        need not be there."""
        outside = self.cut(circuit)
        places = [self.wiring.index(*edge) for edge in circuit.edges]

        def one_more(rows: slice) -> Tensor:
            found = outside.repeat(rows.stop - rows.start, 1, 1)
            for cut, place in zip(found, places[rows], strict=True):
                cut[place] = True
            return found

        less = (self._patcher.metric(len(places), one_more).mean(1) - self.nothing_metric) / self._range
        whole = float(self.scaled(outside[None]).mean())
        return {edge: whole - value for edge, value in zip(circuit.edges, less.tolist(), strict=True)}

    def curve(self, circuit: Circuit, *, fractions: Sequence[float] = FRACTIONS) -> Curve:
        """Faithfulness of ``circuit`` pruned to fractions of its edges, which must be in ascending order."""
        if list(fractions) != sorted(set(fractions)) or not fractions or not 0 <= fractions[0] <= fractions[-1] <= 1:
            raise ValueError(f"fractions must rise from 0 or more to 1 at most, not {list(fractions)}")
        pruned = [circuit.prune(size=round(fraction * len(circuit.edges))) for fraction in fractions]
        scaled = self.scaled(torch.stack([self.cut(smaller) for smaller in pruned]))
        x = torch.tensor(list(fractions), dtype=torch.float64)
        return Curve(
            fractions=tuple(fractions),
            edges=tuple(len(smaller.edges) for smaller in pruned),
            faithfulness=tuple(mean_estimate(row) for row in scaled),
            area=jackknife(scaled, lambda means: float(torch.trapezoid(means, x))),
            distance=jackknife(scaled, lambda means: float(torch.trapezoid((1 - means).abs(), x))),
            ablation=self.ablation,
        )
