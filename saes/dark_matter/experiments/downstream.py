"""What each part of an SAE's error costs the model: cross-entropy with the part added back to the reconstruction.

The paper's downstream_ce.py: SAE(x), SAE(x) + linear error, SAE(x) + nonlinear error, and x itself stand in for x at a
site. Tokens that were not decomposed (first positions, massive tokens) stay clean, and so does padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.sites.splicing import spliced_logits
from interp.tokens.batches import batches_of_rows, evenly_spaced, measured
from interp.tokens.token_rows import TokenRows
from saes.dark_matter.split.least_squares import LinearMap
from saes.sae import SAE

SPLICES = ("sae", "sae_and_linear", "sae_and_nonlinear", "sae_and_both")
"""``sae_and_both`` is x again but for rounding: a check."""


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """Cross-entropy in nats a token, of the held-out documents' tokens that lie behind a spliced position."""

    ce_clean: Estimate
    """Cross-entropy of the model as it is, in nats a token."""
    ce: Mapping[str, Estimate]
    """By name in ``SPLICES``."""
    ce_added: Mapping[str, Estimate]
    """CE - CE_clean, whose error is much smaller than either's: documents that are hard are hard for both."""
    recovered: Mapping[str, Estimate]
    """(CE_sae - CE) / (CE_sae - CE_clean): 0 for the SAE alone, 1 for all of x."""
    fvu_removed: Mapping[str, float]
    """Share of the FVU that each addition takes away: what ``recovered`` would be if the loss counted squares."""
    norm_share: Mapping[str, float]
    """Mean norm of the addition over mean norm of the error."""
    tokens: int
    """How many tokens' losses were measured."""


@torch.no_grad()
def downstream(
    model: Model,
    rows: TokenRows,
    sae: SAE,
    site: Site,
    probe: LinearMap,
    *,
    held_documents: Int[Tensor, " documents"],
    max_rows: int | None = None,
    first_position: int = 0,
    massive_norm: float = float("inf"),
    clean_ids: Sequence[int] = (),
    batch_rows: int = 8,
) -> Downstream:
    """Run the model over the rows with each splice.

    Args:
        model: Whose activations the SAE reconstructs.
        rows: Of text.
        sae: The SAE.
        site: Where it stands.
        probe: From x to the linear error, with the sign of ``x - SAE(x)``.
        held_documents: Documents (as ``rows`` counts them) that the probe was not fitted on; only they are counted.
        max_rows: Rows to run of those with such documents, spread evenly over the text; by default all of them.
        first_position: Earlier positions stay clean and are not counted.
        massive_norm: So do tokens whose activation has a larger norm,
        clean_ids: and tokens with these ids.
        batch_rows: Rows to run at once.

    Raises:
        ValueError: no counted token is left.
    """
    device = next(model.parameters()).device
    sae = sae.to(device)
    names = ("clean", *SPLICES)
    losses: dict[str, list[Tensor]] = {name: [] for name in names}
    documents_of: list[Tensor] = []
    squares, norms = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with_held = np.flatnonzero(np.isin(rows.documents, held_documents.numpy()).any(1))
    chosen = evenly_spaced(with_held, len(with_held) if max_rows is None else max_rows)
    for _, ids, documents in batches_of_rows(rows, chosen, batch_rows, device=device):
        x = capture(model, ids, [site], attention_mask=documents >= 0)[site].float()
        where = measured(documents, first_position) & (x.norm(dim=-1) <= massive_norm)
        where &= ~torch.isin(ids, torch.tensor(clean_ids).to(ids))
        x_hat = sae(x.to(sae.W_enc)).float()
        error = x - x_hat
        linear = probe(x.flatten(0, 1).cpu()).view(*ids.shape, -1).to(x)
        replacements = {
            "sae": x_hat,
            "sae_and_linear": x_hat + linear,
            "sae_and_nonlinear": x_hat + (error - linear),
            "sae_and_both": x_hat + linear + (error - linear),
        }
        held = torch.isin(documents, held_documents.to(documents))
        counted = where[:, :-1] & held[:, 1:] & (documents[:, 1:] >= 0)
        losses["clean"].append(metrics.cross_entropy(model(ids), ids)[counted])
        for name, replacement in replacements.items():
            logits = spliced_logits(model, ids, site, replacement, where=where)
            losses[name].append(metrics.cross_entropy(logits, ids)[counted])
        documents_of.append(documents[:, 1:][counted])
        parts = torch.stack(
            [part.double().norm(dim=-1)[where & held] for part in (error, linear, error - linear)]
        ).cpu()
        squares, norms = squares + parts.square().sum(-1), norms + parts.sum(-1)
    if not any(map(len, documents_of)):
        raise ValueError(
            f"no held-out token behind position {first_position} is left to measure the loss on; give more rows"
        )
    groups = torch.cat(documents_of).cpu()
    per_token = {name: torch.cat(found).cpu() for name, found in losses.items()}
    square, norm = (squares / squares[0]).tolist(), (norms / norms[0]).tolist()
    return Downstream(
        ce_clean=metrics.mean(per_token["clean"], groups=groups),
        ce={name: metrics.mean(per_token[name], groups=groups) for name in SPLICES},
        ce_added={name: metrics.mean(per_token[name] - per_token["clean"], groups=groups) for name in SPLICES},
        recovered={
            name: metrics.ratio(
                per_token["sae"] - per_token[name], per_token["sae"] - per_token["clean"], groups=groups
            )
            for name in SPLICES
        },
        # What is missing after an addition is the other part.
        fvu_removed=dict(zip(SPLICES, (0.0, 1 - square[2], 1 - square[1], 1.0), strict=True)),
        norm_share=dict(zip(SPLICES, (0.0, norm[1], norm[2], 1.0), strict=True)),
        tokens=len(groups),
    )
