"""The model's loss at each token of a store: a baseline for the size of the SAE's error there."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.models.bridge import Model
from interp.store.masks import Masks
from interp.tokens.batches import batches_of_rows, evenly_spaced
from interp.tokens.token_rows import TokenRows
from saes.dark_matter.split.kept_tokens import KeptTokens


@torch.no_grad()
def token_losses(
    model: Model, rows: TokenRows, kept: KeptTokens, *, max_rows: int, batch_rows: int = 8
) -> Float[Tensor, " n"] | None:
    """Nats for the token after each one of ``kept``; NaN where none of the document follows, and in rows not run.

    At most ``max_rows`` rows are run, spread evenly over the text. None where it cannot be told which position of the
    rows a stored token was, since a norm mask left some out.
    """
    provenance = kept.store.provenance
    masks = Masks(drop_special=bool(provenance.get("drop_special")), drop_first=int(provenance.get("drop_first") or 0))
    mask = masks.of_rows(rows, slice(None))
    if int(mask.sum()) != len(kept.store) or not np.array_equal(rows.ids[mask][kept.rows.numpy()], kept.ids.numpy()):
        return None
    losses = torch.full(rows.ids.shape, torch.nan)
    device = next(model.parameters()).device
    for numbers, ids, documents in batches_of_rows(
        rows, evenly_spaced(np.arange(len(rows.ids)), max_rows), batch_rows, device=device
    ):
        found = metrics.cross_entropy(model(ids), ids)
        same = documents[:, 1:] == documents[:, :-1]
        losses[numbers, :-1] = torch.where(same, found, torch.nan).cpu()
    return losses[torch.from_numpy(mask)][kept.rows]
