"""The two runs of a task that every method starts from, and the differences between them."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from circuits.anatomy.anatomy import Anatomy, anatomy_of
from circuits.anatomy.nodes import Hook, NodeHooks, node_hooks
from circuits.rules import active_rules, relevance
from circuits.runs.prefix import Prefix, shared_prefix
from circuits.runs.runner import Passed, Runner
from circuits.tasks.metrics import Measure, measure_between
from circuits.tasks.task import Task
from interp.models.plain import plain_module
from interp.sites.checking import require_declared


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A model opened for a task."""

    task: Task
    """The prompts, their answers and the metric."""
    anatomy: Anatomy
    """The parts of the model that runs."""
    runner: Runner
    """What runs the model, and counts its passes."""
    residual: Sequence[NodeHooks]
    """What enters each block."""

    @cached_property
    def prefix(self) -> Prefix:
        """What both runs begin with."""
        return shared_prefix(self.anatomy, self.task.base, self.task.source)

    def under(self, rules: Iterable[str] | None) -> AbstractContextManager[Any]:
        """A block in which rules of relevance are in force; None for plain gradients."""
        return nullcontext() if rules is None else relevance(self.anatomy, rules=rules)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Both runs: what is patched in, and the run it is patched into."""

    source: Passed
    """The run whose values are patched in."""
    base: Passed
    """The run that they are patched into."""
    measure: Measure
    """The task's metric, with both runs as its ends."""
    base_metric: Tensor
    """Scaled metric of the base run, ``[n]``."""

    def difference(self, hooks: NodeHooks) -> Tensor:
        """Source minus base, ``[n, position, (unit,) d]``: what patching adds."""
        return (self.source.value(hooks.value) - self.base.value(hooks.value)).detach()


def open_session(model: Any, task: Task) -> Session:
    """Find the parts of a model, and check that the task fits it.

    Raises:
        ValueError: ids that the model has no embedding for; rules in force, under which no method but ``relp`` would
            be what it says.
    """
    module = plain_module(model, purpose="trace circuits")
    anatomy = anatomy_of(module)
    require_declared(model)
    rules = active_rules(getattr(model, "original_model", module))
    if rules:
        raise ValueError(
            f"the rules {sorted(rules)} are in force on this model; leave that block, and pass rules= instead"
        )
    vocabulary = module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    for name in ("clean", "corrupt", "correct", "wrong"):
        if (largest := int(getattr(task, name).max())) >= vocabulary:
            raise ValueError(f"{name} has token {largest}, but the model's vocabulary ends at {vocabulary - 1}")
    return Session(
        task=task, anatomy=anatomy, runner=Runner(anatomy, prompts=len(task)), residual=node_hooks(anatomy, "resid_pre")
    )


def contrast(
    session: Session,
    nodes: Iterable[NodeHooks],
    *,
    gradients: bool = False,
    rules: Iterable[str] | None = None,
    also_base: Sequence[Hook] = (),
    scaled: bool = True,
    interpolated: bool = False,
) -> Contrast:
    """Run the source and the base prompts: two forwards. The base run keeps its graph where gradients are wanted, under
    the rules of relevance if given. Unless ``scaled``, the metric stays as it is: for some of a task's prompts.

    Raises:
        ValueError: gradients are wanted at the base run alone (not at points between the runs, ``interpolated``), and
            the metric is flat there.
    """
    task, runner, nodes = session.task, session.runner, list(nodes)
    source = runner.forward(task.source, read=[hooks.value for hooks in nodes])
    read = [hook for hooks in nodes for hook in (hooks.value, hooks.change)]
    with session.under(rules):
        base = runner.forward(task.base, read=[*read, *also_base], gradients=gradients)
    clean, corrupt = (source, base) if task.direction == "denoise" else (base, source)
    if scaled:
        measure = measure_between(task, clean.logits, corrupt.logits)
    else:
        measure = Measure(task, clean.logits.detach(), clean=1.0, corrupt=0.0)
    if gradients and scaled and not interpolated:
        refuse_flat(measure, source.logits.detach(), base.logits.detach())
    with torch.set_grad_enabled(gradients):
        base_metric = measure(base.logits)
    return Contrast(source=source, base=base, measure=measure, base_metric=base_metric)


# Of the whole change of the metric, what its gradient at the base run sees at the least. A gradient that is 0 but for
# rounding in float32 sees about 1e-7 of it; one at a saturated softmax (p = 0.999) about 1e-2.
_LEAST_SEEN = 1e-5


def refuse_flat(measure: Measure, source: Tensor, base: Tensor) -> None:
    """Refuse a metric that has no slope at the base run, such as a divergence from that very run: scores would be
    rounding errors."""
    leaf = base.clone().requires_grad_()
    with torch.enable_grad():
        metric = measure(leaf).sum()
    if not metric.requires_grad:
        return
    (slope,) = torch.autograd.grad(metric, leaf)
    seen = float((slope * (source - base)).abs().sum()) / len(base)
    if seen < _LEAST_SEEN:
        direction = measure.task.direction
        other = "noise" if direction == "denoise" else "denoise"
        run = "corrupt" if direction == "denoise" else "clean"
        raise ValueError(
            f"{measure.task.metric_name} is flat at the {run} run, where direction {direction!r} takes gradients:"
            f" scores would be rounding errors. Use direction={other!r}, a method that looks between the runs ('ig',"
            " 'eap-ig') or at them ('patching', 'path-patching'), or another metric"
        )


def summed(effects: Tensor) -> Tensor:
    """Over the entries of the vectors, in float64."""
    return effects.double().sum(-1)
