"""ACDC (Conmy et al. 2023): go backwards through the model and remove every edge that the output does not miss."""

import torch
from torch import Tensor

from circuits.anatomy.wiring import Wiring
from circuits.attribution.edge_patching import EdgePatcher
from circuits.runs.pair import Session
from circuits.tasks.metrics import Measure
from interp.terminal.progress import progress


@torch.no_grad()
def acdc(session: Session, wiring: Wiring, *, threshold: float, memory: int) -> tuple[Measure, Tensor]:
    """The metric with its ends, and ``[n, writer, reader]``: the divergence from the whole model that removing a kept
    edge cost when its turn came, in nats; 0 for the edges removed.

    Readers are taken from the logits back, and the writers of each from the last on. What was removed stays so while
    the rest is tested. Most edges go, so a batch tries a stretch of them with all before it in the stretch removed;
    what comes behind the first that has to stay is tried again. The result is that of one edge after the other.
    """
    patcher = EdgePatcher(session, wiring, memory=memory)
    whole = patcher.pair.base.logits.log_softmax(-1)
    costs = torch.zeros(len(session.task), *wiring.mask.shape, dtype=torch.float64)
    edges = [
        (row, column)
        for column in reversed(range(len(wiring.readers)))
        for row in reversed(wiring.mask[:, column].nonzero().flatten().tolist())
    ]
    cut = torch.zeros_like(wiring.mask)
    current = torch.zeros(len(session.task), dtype=torch.float64)
    at, width = 0, 1
    with progress("prune edges", len(edges), unit="edges") as advance:
        while at < len(edges):
            advance(at - advance.done)
            stretch = edges[at : at + width]
            tried = cut.repeat(len(stretch), 1, 1)
            for number, (row, column) in enumerate(stretch):
                tried[number:, row, column] = True
            now = patcher.logits(tried).log_softmax(-1)
            divergences = torch.cat([current[None], (whole.exp() * (whole - now)).sum(-1).double().cpu()])
            rises = divergences.diff(dim=0)
            missed = (rises.mean(1) >= threshold).nonzero()
            removed = int(missed[0]) if len(missed) else len(stretch)
            cut, current = (tried[removed - 1] if removed else cut), divergences[removed]
            if removed < len(stretch):
                costs[:, *stretch[removed]] = rises[removed]
                at, width = at + removed + 1, max(1, removed)
            else:
                at, width = at + removed, min(2 * width, patcher.rows_at_once)
    return patcher.pair.measure, costs
