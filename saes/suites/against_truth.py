"""Whether a dictionary found features that are known: directions, firing, and absorption, all against the truth."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from interp import metrics
from interp.metrics import Estimate
from saes.sae import SAE
from saes.suites.planted import Planted, PlantedRows


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """One dictionary against planted features. Standard errors are over features; of absorption over rows."""

    cosine: Estimate
    """Cosine of each feature with the decoder row matched to it, mean over features; SynthSAEBench calls it MCC."""
    f1: Estimate
    """F1 of a latent as a classifier of whether its feature fires, mean over features that fire at all."""
    absorbed: Estimate | None
    """Share of a parent's coefficient that other latents write, over the rows in which one of its children fires;
    None where no such row is there, or where directions overlap, so that the share is not defined."""
    silent: Estimate | None
    """Share of rows in which a child fires and its parent's latent does not, out of those in which a child fires; None
    where no such row is there."""
    latents: Int[Tensor, " features"]
    """Number of the latent matched to each feature, -1 where there are fewer latents than features."""
    cosines: Float[Tensor, " features"]
    """Cosine of each feature with the decoder row of its latent, 0 without one."""
    f1s: Float[Tensor, " features"]
    """F1 of each feature; NaN where it never fires."""


@torch.no_grad()
def recovery(sae: SAE, planted: Planted, rows: PlantedRows) -> Recovery:
    """Match latents to features one to one by the cosine of their directions, largest sum (Hungarian), then compare.

    Raises ValueError where the SAE has another width than the rows, or no feature fires.

    Example:
        >>> from saes.suites import plant, recovery
        >>> planted = plant(roots=8, d=16, seed=0)
        >>> found = recovery(planted.true_dictionary(), planted, planted.rows(1_000, seed=1))
        >>> round(found.cosine.value, 4), found.f1.value
        (1.0, 1.0)
    """
    if sae.d_in != planted.d or sae.d_out != planted.d:
        raise ValueError(f"this SAE maps {sae.d_in} to {sae.d_out} dimensions, the planted rows have {planted.d}")
    device = sae.W_dec.device
    x, coefficients, directions = rows.x.to(device), rows.coefficients.to(device), planted.directions.to(device)
    cosines = directions @ functional.normalize(sae.W_dec.float(), dim=-1).T
    features, chosen = (torch.from_numpy(i).to(device) for i in linear_sum_assignment(-cosines.cpu().numpy()))
    latents = torch.full((len(directions),), -1, device=device)
    latents[features] = chosen
    matched = torch.where(latents >= 0, cosines.gather(1, latents.clamp_min(0)[:, None])[:, 0], 0.0)

    activations = sae.encode(x.to(sae.W_enc.dtype)).to_dense().float()
    mine = torch.where(latents >= 0, activations[:, latents.clamp_min(0)], 0.0)
    fires, says = coefficients > 0, mine > 0
    both, either = (fires & says).sum(0).float(), (fires.sum(0) + says.sum(0)).float()
    if not fires.any():
        raise ValueError("no planted feature fires in these rows; draw more of them")
    f1s = torch.where(fires.any(0), 2 * both / either, torch.nan)

    absorbed, silent = _absorption(sae, planted, coefficients, activations, latents, mine)
    return Recovery(
        cosine=metrics.mean(matched),
        f1=metrics.mean(f1s[~f1s.isnan()]),
        absorbed=absorbed,
        silent=silent,
        latents=latents.cpu(),
        cosines=matched.cpu(),
        f1s=f1s.cpu(),
    )


def _absorption(
    sae: SAE, planted: Planted, coefficients: Tensor, activations: Tensor, latents: Tensor, mine: Tensor
) -> tuple[Estimate | None, Estimate | None]:
    """Over parents and the rows in which one of their children fires."""
    carried, quiet, units = [], [], []
    for parent in planted.parents[planted.parents >= 0].unique().tolist():
        rows = (coefficients[:, planted.children(parent)] > 0).any(1).nonzero().flatten()
        along = sae.W_dec.float() @ planted.directions[parent].to(sae.W_dec.device)
        written = activations[rows] @ along
        own = mine[rows, parent] * (along[latents[parent]] if latents[parent] >= 0 else 0.0)
        carried.append((written - own) / coefficients[rows, parent])
        quiet.append((mine[rows, parent] == 0).float())
        units.append(rows)
    if not units or not len(rows := torch.cat(units)):
        return None, None
    # A row in which several parents have a child is one draw, not several.
    share, silent = (
        metrics.ratio(values, torch.ones_like(values), groups=rows.cpu(), blocks=False)
        for values in (torch.cat(carried).cpu(), torch.cat(quiet).cpu())
    )
    return share if planted.orthonormal else None, silent
