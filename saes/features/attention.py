"""What the strongest token of a passage attends to: attention may have brought there what a latent sees."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.sites.capturing import capture
from interp.sites.kinds import KINDS
from interp.sites.site import Site, available_sites
from interp.terminal.progress import counted
from saes.features.examples import Example, Text


def last_attention_before(sites: Sequence[Site]) -> int | None:
    """The block whose attention was the last to bring something to the first of the sites; None where none was."""
    if any(site.layer is None or site.kind not in KINDS for site in sites):
        return None
    order = list(KINDS)
    layers = [
        site.layer - (order.index(site.kind) <= order.index("pattern")) for site in sites if site.layer is not None
    ]
    return None if (first := min(layers)) < 0 else first


@torch.no_grad()
def attention_paid(
    text: Text, examples: Sequence[Sequence[Example]]
) -> tuple[tuple[tuple[float, ...], ...], ...] | None:
    """For each example the share of attention that its strongest token pays to each token of the passage, mean over
    the heads of the block that ``last_attention_before`` names; None where there is none, or the model shows none."""
    block = last_attention_before(text.sites)
    if block is None or (site := Site("pattern", block)) not in available_sites(text.model):
        return None
    wanted = sorted({each.row for several in examples for each in several})
    paid: dict[tuple[int, int], Float[Tensor, " position"]] = {}
    peaks: dict[int, set[int]] = {}
    for each in (each for several in examples for each in several):
        peaks.setdefault(each.row, set()).add(each.position)
    chunks = [wanted[i : i + text.batch_rows] for i in range(0, len(wanted), text.batch_rows)]
    device = next(text.model.parameters()).device
    for rows in counted(chunks, "look at attention", unit="batches"):
        ids = torch.from_numpy(text.rows.ids[rows].astype("int64")).to(device)
        mask = torch.from_numpy(text.rows.documents[rows] >= 0).to(device)
        heads = capture(text.model, ids, [site], attention_mask=mask)[site]
        for row, mean in zip(rows, heads.float().mean(1).cpu(), strict=True):
            paid |= {(row, position): mean[position] for position in peaks[row]}
    return tuple(
        tuple(
            tuple(paid[each.row, each.position][each.first : each.first + len(each.ids)].tolist()) for each in several
        )
        for several in examples
    )
