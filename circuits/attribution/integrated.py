"""Integrated gradients: the mean gradient between a node's two values, for one node at a time."""

import torch
from torch import Tensor

from circuits.anatomy.nodes import NodeHooks
from circuits.runs.pair import Contrast, Session, refuse_flat
from circuits.runs.runner import Start


def mean_gradient(
    session: Session, pair: Contrast, hooks: NodeHooks, difference: Tensor, *, steps: int, start: Start | None
) -> Tensor:
    """Gradient of each prompt's metric at a node, mean over ``steps`` points between the two runs' values.

    Raises ValueError where the one point of ``steps=1``, the base run, is a place at which the metric is flat.
    """
    if steps == 1:
        refuse_flat(pair.measure, pair.source.logits.detach(), pair.base.logits.detach())
    total = torch.zeros_like(difference)
    for step in range(steps):
        passed = session.runner.forward(
            session.task.base,
            read=[hooks.change],
            add={hooks.change: difference * (step / steps)},
            gradients=True,
            start=start,
        )
        metric = pair.measure(passed.logits).sum()
        total += session.runner.gradients(metric, passed, [hooks.change])[hooks.change].detach()
    return total / steps
