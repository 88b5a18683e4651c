"""ACDC (Conmy et al. 2023): go backwards through the model and remove every edge that the output does not miss."""

import torch
from torch import Tensor

from circuits.edge_patching import EdgePatcher
from circuits.session import Contrast, Session
from circuits.wiring import Wiring


@torch.no_grad()
def acdc(session: Session, wiring: Wiring, *, threshold: float) -> tuple[Contrast, Tensor]:
    """Both runs, and ``[n, writer, reader]``: the divergence from the whole model that removing a kept edge cost when
    its turn came, in nats; 0 for the edges removed.

    Readers are taken from the logits back, and the writers of each from the last on. What was removed stays so while
    the rest is tested.
    """
    patcher = EdgePatcher(session, wiring)
    whole = patcher.found.base.logits.log_softmax(-1)
    cut = torch.zeros_like(wiring.mask)
    costs = torch.zeros(len(session.task), *wiring.mask.shape, dtype=torch.float64)
    current = torch.zeros(len(session.task), dtype=torch.float64)
    for column in reversed(range(len(wiring.readers))):
        for row in reversed(wiring.mask[:, column].nonzero().flatten().tolist()):
            cut[row, column] = True
            now = patcher.logits(cut[None])[0].log_softmax(-1)
            divergence = (whole.exp() * (whole - now)).sum(-1).double().cpu()
            if float((divergence - current).mean()) < threshold:
                current = divergence
            else:
                cut[row, column] = False
                costs[:, row, column] = divergence - current
    return patcher.found, costs
