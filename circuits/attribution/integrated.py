"""Integrated gradients: the mean gradient between a node's two values, for one place at a time."""

import torch
from torch import Tensor

from circuits.anatomy.nodes import Places
from circuits.runs.pair import Contrast, Session, refuse_flat
from circuits.runs.runner import Start


def mean_gradient(
    session: Session, found: Contrast, place: Places, difference: Tensor, *, steps: int, start: Start | None
) -> Tensor:
    """Gradient of each prompt's metric at a place, mean over ``steps`` points between the two runs' values.

    Raises ValueError where the one point of ``steps=1``, the base run, is a place at which the metric is flat.
    """
    if steps == 1:
        refuse_flat(found.measure, found.source.logits.detach(), found.base.logits.detach())
    total = torch.zeros_like(difference)
    for step in range(steps):
        passed = session.runner.forward(
            session.task.base,
            read=[place.change],
            add={place.change: difference * (step / steps)},
            gradients=True,
            start=start,
        )
        metric = found.measure(passed.logits).sum()
        total += session.runner.gradients(metric, passed, [place.change])[place.change].detach()
    return total / steps
