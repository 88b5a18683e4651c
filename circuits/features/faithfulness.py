"""How much of a behaviour a feature circuit accounts for (Marks et al. 2024).

SAEs are spliced into the model: features and errors outside the circuit are set to their mean over the corrupt prompts,
position by position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.anatomy.nodes import Hook
from circuits.attribution.features import FeatureCircuit, FeatureScores, splices
from circuits.runs.pair import contrast, open_session
from circuits.scores.uncertainty import KeptAndLeftOut, mean_estimate
from circuits.tasks.task import Task
from interp.models.bridge import Model
from saes.sae import SAE


@dataclass(frozen=True, kw_only=True)
class FeatureFaithfulness(KeptAndLeftOut):
    """Of a feature circuit, as :class:`circuits.faithfulness.Faithfulness`.

    Example:
        >>> from circuits.features import FeatureFaithfulness
        >>> from interp import Estimate
        >>> kept = Estimate(value=0.9, standard_error=0.02, n=8)
        >>> FeatureFaithfulness(faithfulness=kept, completeness=kept, size=40).size
        40
    """

    size: int
    """How many features and errors the circuit has, each position counted."""


class FeatureEvaluator:
    """Runs the clean prompts with features and errors outside a circuit at their mean over the corrupt prompts.

    Args:
        mean: ``False`` sets them to their values on the pair's corrupt prompt instead.

    Example:
        >>> import circuits, interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> evaluator = circuits.FeatureEvaluator(model, task, [sae])
        >>> scores = circuits.attribute_features(model, task, [sae], method="atp")
        >>> circuit = circuits.FeatureCircuit.strongest(scores, 10)
        >>> evaluator.metric(circuit).shape
        torch.Size([2])
    """

    def __init__(self, model: Model, task: Task, saes: Sequence[SAE], *, mean: bool = True) -> None:
        task.require_aligned("circuits of features")
        task = task.replace(direction="noise")
        self._session = open_session(model, task)
        self._splices = splices(model, self._session, saes)
        self._pair = contrast(self._session, [splice.hooks for splice in self._splices])
        self._reference = {}
        for splice in self._splices:
            features, error = splice.parts(self._pair.source.value(splice.hooks.value))
            if mean:
                features, error = (part.mean(0, keepdim=True).expand_as(part) for part in (features, error))
            self._reference[splice.name] = (features, error)
        everything = FeatureCircuit(
            features={
                s.name: torch.ones(self._reference[s.name][0].shape[1:], dtype=torch.bool) for s in self._splices
            },
            errors={s.name: torch.ones(task.length, dtype=torch.bool) for s in self._splices},
        )
        self.model_metric = float(self.metric(everything).mean())
        self.nothing_metric = float(self.metric(everything.complement()).mean())
        if abs(self.model_metric - self.nothing_metric) < 1e-6:
            raise ValueError(f"ablating all features and errors leaves {task.metric_name} as it is: nothing to explain")

    @torch.no_grad()
    def metric(self, circuit: FeatureCircuit) -> Tensor:
        """The raw metric of each prompt, ``[n]``.

        Site after site is set in its own pass, since what a site sees depends on the ablations before it.
        """
        add: dict[Hook, Tensor] = {}
        for splice in self._splices:
            passed = self._session.runner.forward(self._session.task.base, read=[splice.hooks.value], add=add)
            features, error = splice.parts(passed.value(splice.hooks.value))
            mean_features, mean_error = self._reference[splice.name]
            out = ~circuit.features[splice.name].to(error.device)
            delta = ((mean_features - features) * out) @ splice.sae.W_dec
            delta = delta + (mean_error - error) * ~circuit.errors[splice.name][:, None].to(error.device)
            add[splice.hooks.change] = add.get(splice.hooks.change, 0) + delta
        logits = self._session.runner.forward(self._session.task.base, add=add).logits
        return self._pair.measure.raw(logits).double().cpu()

    def evaluate(self, circuit: FeatureCircuit) -> FeatureFaithfulness:
        """Faithfulness of a circuit and of what it leaves out."""
        scale = self.model_metric - self.nothing_metric
        inside, outside = ((self.metric(c) - self.nothing_metric) / scale for c in (circuit, circuit.complement()))
        return FeatureFaithfulness(
            faithfulness=mean_estimate(inside), completeness=mean_estimate(outside), size=circuit.size
        )

    def curve(self, scores: FeatureScores, *, sizes: Sequence[int]) -> list[FeatureFaithfulness]:
        """Faithfulness by size, of the circuits of the strongest nodes."""
        return [self.evaluate(FeatureCircuit.strongest(scores, size)) for size in sizes]
