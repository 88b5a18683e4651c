"""Feature circuits by several kinds of scores: faithfulness by size, beside what the scores cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from circuits.attribution.features import FeatureScores, attribute_features
from circuits.features.faithfulness import FeatureEvaluator, FeatureFaithfulness
from circuits.tasks.task import Task
from interp.models.bridge import Model
from saes.sae import SAE

VARIANTS: dict[str, dict[str, Any]] = {
    "IG, 10 steps": {"method": "ig", "steps": 10},
    "AtP": {"method": "atp"},
    "RelP, no_ah": {"method": "relp", "rules": "no_ah"},
    "RelP, paper": {"method": "relp", "rules": "paper"},
}
SIZES = (10, 30, 100, 300, 1000)


@dataclass(frozen=True, kw_only=True)
class FeatureComparison:
    """By variant: scores, the circuits of their strongest nodes in order of size, and seconds of wall time.

    Example:
        >>> import circuits, interp, saes, torch
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> found = circuits.compare_features(model, task, [sae], sizes=[4, 8], variants={"AtP": {"method": "atp"}})
        >>> found.scores["AtP"].cost.backwards, [point.size for point in found.curves["AtP"]]
        (1.0, [4, 8])
        >>> print(found.markdown().splitlines()[0])
        | scores by | forwards, backwards | seconds | 4 nodes | 8 nodes |
    """

    scores: Mapping[str, FeatureScores]
    """Scores of features and errors, by name of the variant."""
    curves: Mapping[str, Sequence[FeatureFaithfulness]]
    """Faithfulness of the strongest nodes, by variant and in order of size."""
    seconds: Mapping[str, float]
    """Wall time that the scores took, by variant."""
    n: int
    """How many prompts all of it is measured on."""

    def markdown(self) -> str:
        """A row for each variant: cost, and faithfulness with its standard error / completeness by size."""
        sizes = [point.size for point in next(iter(self.curves.values()))]
        columns = ["scores by", "forwards, backwards", "seconds", *(f"{size} nodes" for size in sizes)]
        lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        for name, curve in self.curves.items():
            cost = self.scores[name].cost
            cells = [name, f"{cost.forwards:g}, {cost.backwards:g}", f"{self.seconds[name]:.2f}"]
            cells += [f"{p.faithfulness:.2f} {p.faithfulness.error('.2f')} / {p.completeness:.2f}" for p in curve]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def figure(self) -> go.Figure:
        """Faithfulness over size, a line for each variant, named with its cost."""
        figure = go.Figure()
        for name, curve in self.curves.items():
            cost = self.scores[name].cost
            figure.add_scatter(
                x=[point.size for point in curve],
                y=[point.faithfulness.value for point in curve],
                error_y={"array": [point.standard_error for point in curve]},
                name=f"{name}: {cost.forwards:g} forwards, {cost.backwards:g} backwards",
            )
        figure.update_xaxes(type="log", dtick=1).update_yaxes(title="faithfulness")
        return figure.update_layout(title=f"Faithfulness by number of features and errors kept, n = {self.n}")


def compare_features(
    model: Model,
    task: Task,
    saes: Sequence[SAE],
    *,
    sizes: Sequence[int] = SIZES,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    mean: bool = True,
) -> FeatureComparison:
    """Score features and errors by every variant in the clean run, and evaluate the circuits of the strongest.

    Args:
        sizes: Numbers of nodes, smallest first.
        variants: Arguments of :func:`circuits.attribute_features` by name; by default ``VARIANTS``.
        mean: As for :class:`circuits.FeatureEvaluator`.

    Raises:
        ValueError: no sizes, or not in rising order; and as :func:`circuits.attribute_features`.

    Example:
        >>> import circuits, interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> found = circuits.compare_features(model, task, [sae], sizes=[4, 8])
        >>> type(found).__name__
        'FeatureComparison'
    """
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"sizes must rise, and be at least one; they are {list(sizes)}")
    evaluator = FeatureEvaluator(model, task, saes, mean=mean)
    scores, curves, seconds = {}, {}, {}
    for name, options in (VARIANTS if variants is None else variants).items():
        begin = time.perf_counter()
        scores[name] = attribute_features(model, task.replace(direction="noise"), saes, **options)
        seconds[name] = time.perf_counter() - begin
        curves[name] = evaluator.curve(scores[name], sizes=sizes)
    return FeatureComparison(scores=scores, curves=curves, seconds=seconds, n=len(task))
