"""Circuits: patching, attribution, relevance and circuit graphs over the places that `interp` names."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits import rules as rules
    from circuits import tasks as tasks
    from circuits.attribution.dispatch import attribute as attribute
    from circuits.attribution.edges import attribute_edges as attribute_edges
    from circuits.attribution.features import FeatureCircuit as FeatureCircuit
    from circuits.attribution.features import attribute_features as attribute_features
    from circuits.circuit import Circuit as Circuit
    from circuits.explorer.explorer import Explorer as Explorer
    from circuits.faithfulness import Evaluator as Evaluator
    from circuits.features.faithfulness import FeatureEvaluator as FeatureEvaluator
    from circuits.scores.nodes import Scores as Scores
    from circuits.tasks.task import Task as Task

_HOMES = {
    "Circuit": "circuits.circuit",
    "Evaluator": "circuits.faithfulness",
    "Explorer": "circuits.explorer.explorer",
    "FeatureCircuit": "circuits.attribution.features",
    "FeatureEvaluator": "circuits.features.faithfulness",
    "Scores": "circuits.scores.nodes",
    "Task": "circuits.tasks.task",
    "attribute": "circuits.attribution.dispatch",
    "attribute_edges": "circuits.attribution.edges",
    "attribute_features": "circuits.attribution.features",
}
_MODULES = ("rules", "tasks")
__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``interp --help`` does not wait for torch."""
    if name in _MODULES:
        return importlib.import_module(f"circuits.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
