"""What a circuit does by itself: everything outside it ablated, and chosen nodes taken out of it too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.attribution.features import FeatureCircuit
from circuits.circuit import Circuit
from circuits.explorer.graph import Part
from circuits.explorer.interventions import Measured
from circuits.faithfulness import Evaluator
from circuits.features.faithfulness import FeatureEvaluator
from circuits.tasks.task import Task
from interp.metrics import Estimate
from interp.models.bridge import Model
from saes.sae import SAE


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How faithfulness without some parts is measured, and by which ablations."""

    values: Sequence[str]
    """What parts can be set to: keys of ``VALUES``."""
    faithfulness: Callable[[Sequence[Part], str, float, float], Measured]
    """Measures it, given parts, what they are set to, and the thresholds of edges and of nodes."""

    def measure(self, parts: Sequence[Part], *, to: str, threshold: float, node_threshold: float) -> Measured:
        """Faithfulness of what is above the thresholds, without ``parts``.

        Raises:
            ValueError: a value that does not ablate; parts at positions, of a circuit whose edges are summed over them.
        """
        if to not in self.values:
            raise ValueError(f"within a circuit, nodes are ablated by {', '.join(self.values)}, not set to {to!r}")
        return self.faithfulness(parts, to, threshold, node_threshold)


def scope_of(
    shown: Any, *, model: Model, task: Task | None, saes: Sequence[SAE], evaluator: Evaluator | None
) -> Scope | None:
    """The scope of a circuit; None for scores of nodes, and where nothing can be run."""
    if isinstance(shown, Circuit) and (evaluator is not None or task is not None):
        return _of_edges(shown, model, task, evaluator)
    if isinstance(shown, FeatureCircuit) and task is not None and saes:
        return _of_features(shown, model, task, saes)
    return None


def _of_edges(circuit: Circuit, model: Model, task: Task | None, evaluator: Evaluator | None) -> Scope:
    known = {} if evaluator is None else {evaluator.ablation: evaluator}

    def faithfulness(parts: Sequence[Part], to: str, threshold: float, _node_threshold: float) -> Measured:
        if any(part.position is not None for part in parts):
            raise ValueError(
                "edges of a circuit are summed over positions: take whole nodes out of it in the view of components, or"
                " measure in the model"
            )
        if to not in known:
            assert task is not None
            known[to] = Evaluator(model, task, ablation=to)
        shown = circuit.prune(threshold=threshold, dangling=True).without_nodes(part.id for part in parts)
        return _measured(known[to], known[to].evaluate(shown).faithfulness)

    return Scope(values=list(known) if task is None else ("resample", "mean", "zero"), faithfulness=faithfulness)


def _of_features(circuit: FeatureCircuit, model: Model, task: Task, saes: Sequence[SAE]) -> Scope:
    known: dict[str, FeatureEvaluator] = {}

    def faithfulness(parts: Sequence[Part], to: str, _threshold: float, _node_threshold: float) -> Measured:
        if to not in known:
            known[to] = FeatureEvaluator(model, task, saes, mean=to == "mean")
        less = FeatureCircuit(
            features={site: mask.clone() for site, mask in circuit.features.items()},
            errors={site: mask.clone() for site, mask in circuit.errors.items()},
        )
        for part in parts:
            if part.index is None:
                less.errors[part.site][part.position] = False
            else:
                less.features[part.site][part.position, part.index] = False
        return _measured(known[to], known[to].evaluate(less).faithfulness)

    return Scope(values=("mean", "resample"), faithfulness=faithfulness)


def _measured(evaluator: Evaluator | FeatureEvaluator, faithfulness: Estimate) -> Measured:
    raw = evaluator.nothing_metric + faithfulness * (evaluator.model_metric - evaluator.nothing_metric)
    return Measured(value=faithfulness, raw=raw, metric="faithfulness")
