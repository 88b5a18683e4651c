"""Circuits: patching, attribution, relevance and circuit graphs over the places that `interp` names."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits import rules as rules
    from circuits import tasks as tasks
    from circuits.attribution import attribute as attribute
    from circuits.circuit import Circuit as Circuit
    from circuits.edges import attribute_edges as attribute_edges
    from circuits.explorer import Explorer as Explorer
    from circuits.faithfulness import Evaluator as Evaluator
    from circuits.feature_circuits import FeatureCircuit as FeatureCircuit
    from circuits.feature_circuits import attribute_features as attribute_features
    from circuits.feature_faithfulness import FeatureEvaluator as FeatureEvaluator
    from circuits.scores import Scores as Scores
    from circuits.task import Task as Task

_HOMES = {
    "Circuit": "circuits.circuit",
    "Evaluator": "circuits.faithfulness",
    "Explorer": "circuits.explorer",
    "FeatureCircuit": "circuits.feature_circuits",
    "FeatureEvaluator": "circuits.feature_faithfulness",
    "Scores": "circuits.scores",
    "Task": "circuits.task",
    "attribute": "circuits.attribution",
    "attribute_edges": "circuits.edges",
    "attribute_features": "circuits.feature_circuits",
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
