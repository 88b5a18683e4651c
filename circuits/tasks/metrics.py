"""What a task measures on the logits of the last position: one number a prompt, 1 for the clean run, 0 for the corrupt.

Every metric maps logits ``[*, n, vocab]`` to ``[*, n]``, so that many patched runs are measured at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Answers(Protocol):
    """What a metric sees of a task: the tokens that answer it rightly and wrongly."""

    @property
    def correct(self) -> Tensor:
        """Ids ``[n, k]``, padded with -1."""

    @property
    def wrong(self) -> Tensor:
        """Ids ``[n, k]``, padded with -1."""


@runtime_checkable
class Question(Answers, Protocol):
    """A task as far as measuring it goes: its answers and its metric."""

    @property
    def metric(self) -> "str | CustomMetric":
        """A name in :data:`METRICS`, or a user's own."""

    @property
    def metric_name(self) -> str:
        """How messages call it."""

    @property
    def direction(self) -> str:
        """``denoise`` or ``noise``."""

    def rows(self, prompts: slice) -> "Question":
        """The same for some of the prompts."""


Metric = Callable[[Tensor, Answers, Tensor], Tensor]
"""From logits, the task and the clean run's logits ``[n, vocab]`` to one number a prompt."""
CustomMetric = Callable[[Tensor, Any], Tensor]
"""A user's metric: from logits ``[n, vocab]`` of one run to one number a prompt."""

# Below this the two runs are the same as far as the metric can tell, and dividing by it would blow noise up.
LEAST_DIFFERENCE = 1e-6


def _mean_over(values: Tensor, ids: Tensor) -> Tensor:
    """Mean of ``values [*, n, vocab]`` over each prompt's ids ``[n, k]``, of which -1 are padding."""
    present = ids >= 0
    index = ids.clamp(min=0).expand(*values.shape[:-1], ids.shape[-1])
    return (values.gather(-1, index) * present).sum(-1) / present.sum(-1)


def _sum_over(values: Tensor, ids: Tensor) -> Tensor:
    return _mean_over(values, ids) * (ids >= 0).sum(-1)


def logit_difference(logits: Tensor, task: Answers, _clean: Tensor) -> Tensor:
    """Mean logit of the correct tokens minus that of the wrong ones; linear, so relevance is conserved up to it."""
    return _mean_over(logits, task.correct.to(logits.device)) - _mean_over(logits, task.wrong.to(logits.device))


def probability(logits: Tensor, task: Answers, _clean: Tensor) -> Tensor:
    """Probability of the correct tokens together."""
    return _sum_over(logits.softmax(-1), task.correct.to(logits.device))


def probability_difference(logits: Tensor, task: Answers, _clean: Tensor) -> Tensor:
    """Probability of the correct tokens together minus that of the wrong ones (Hanna et al. 2023, greater-than)."""
    p = logits.softmax(-1)
    return _sum_over(p, task.correct.to(p.device)) - _sum_over(p, task.wrong.to(p.device))


def kl(logits: Tensor, _task: Answers, clean: Tensor) -> Tensor:
    """Minus the divergence KL(clean run || this run), in nats: 0 for the clean run, negative elsewhere."""
    p, q = clean.log_softmax(-1), logits.log_softmax(-1)
    return -(p.exp() * (p - q)).sum(-1)


METRICS: dict[str, Metric] = {
    "logit_difference": logit_difference,
    "probability": probability,
    "probability_difference": probability_difference,
    "kl": kl,
}


@dataclass(frozen=True)
class Measure:
    """A task's metric with its two ends fixed: ``(m - corrupt) / (clean - corrupt)``, whose means are 1 and 0."""

    task: Question
    """Answers and metric of the prompts."""
    clean_logits: Tensor
    """Logits of the clean run, which divergences are taken from."""
    clean: float
    """The raw metric of the clean run, mean over prompts."""
    corrupt: float
    """The raw metric of the corrupt run, mean over prompts."""

    def of(self, prompts: slice) -> "Measure":
        """The same for some of the prompts; what is 1 and what is 0 stays."""
        return Measure(self.task.rows(prompts), self.clean_logits[prompts], self.clean, self.corrupt)

    def raw(self, logits: Tensor) -> Tensor:
        """The metric itself, ``[*, n, vocab]`` to ``[*, n]``."""
        metric = self.task.metric
        if isinstance(metric, str):
            return METRICS[metric](logits, self.task, self.clean_logits.to(logits))
        runs = logits.reshape(-1, *logits.shape[-2:])
        found = torch.stack([metric(run, self.task) for run in runs])
        if found.shape != runs.shape[:2]:
            raise ValueError(
                f"the metric returned {list(found.shape[1:])} for {runs.shape[1]} prompts; it must return one number a"
                " prompt, not their mean"
            )
        return found.reshape(logits.shape[:-1])

    def __call__(self, logits: Tensor) -> Tensor:
        """The scaled metric of each prompt, ``[*, n]``; its mean over prompts is what scores are changes of."""
        return (self.raw(logits) - self.corrupt) / (self.clean - self.corrupt)


def measure_between(task: Question, clean_logits: Tensor, corrupt_logits: Tensor) -> Measure:
    """The task's metric with the two runs (logits ``[n, vocab]``) as its ends.

    Raises:
        ValueError: both runs measure the same, so that no patch can have an effect.
    """
    clean_logits = clean_logits.detach()
    ends = Measure(task, clean_logits, 1.0, 0.0)
    with torch.no_grad():
        clean, corrupt = (float(ends.raw(logits).double().mean()) for logits in (clean_logits, corrupt_logits))
    if not abs(clean - corrupt) > LEAST_DIFFERENCE:
        raise ValueError(
            f"{task.metric_name} is {clean:.4g} on the clean prompts and {corrupt:.4g} on the corrupt ones: there is"
            " nothing to explain. Check that the prompts differ where the answer is decided, or choose another metric"
        )
    return Measure(task, clean_logits, clean, corrupt)
