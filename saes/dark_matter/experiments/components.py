"""How much of an SAE's error is linear in what SAEs of earlier components put out (simple_circuits.py of the paper).

Earlier means: what is added to make this activation, so the layer before, this block's attention and its MLP. Plain
held-out R², no intercept; the regressors are reconstructions, not latents.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.metrics import Estimate
from interp.sites.site import Site
from saes.dark_matter.split.bootstrap import Resamples, Unexplained
from saes.dark_matter.split.decomposition import ErrorSplit
from saes.dark_matter.split.held_out import check_counts
from saes.dark_matter.split.least_squares import LinearMap, NormalEquations
from saes.dark_matter.split.reconstructions import RowsOfSAE
from saes.sae import SAE

TARGETS = ("error", "linear", "nonlinear")
TOGETHER = "together"


@dataclass(frozen=True, kw_only=True)
class ComponentPrediction:
    """By component's name, and ``together`` where there are several."""

    r2: Mapping[str, Mapping[str, Estimate]]
    """Of each of ``TARGETS``: R², the mean over dimensions."""
    fvu_after: Mapping[str, Estimate]
    """FVU of x once the prediction of the error is added to the reconstruction."""


@torch.no_grad()
def component_prediction(
    rows: RowsOfSAE, split: ErrorSplit, components: Mapping[str, tuple[SAE, Site]], *, seed: int = 0
) -> ComponentPrediction:
    """Predict the error and its parts at every held-out token of ``split``.

    Args:
        rows: Of the SAE whose error it is.
        split: Of the same rows; the regressions are fitted on the rows that it was fitted on.
        components: SAEs and their sites, which the same store must hold.
        seed: Of the bootstrap.

    Raises:
        ValueError: a component's site that is not in the store, or too few rows to fit on for all of them together.
    """
    widths = {name: sae.d_out for name, (sae, _) in components.items()}
    check_counts(split.held, p=sum(widths.values()))
    ends = torch.tensor([0, *widths.values()]).cumsum(0).tolist()
    columns = {name: slice(a, b) for name, a, b in zip(widths, ends[:-1], ends[1:], strict=True)}
    if len(columns) > 1:
        columns[TOGETHER] = slice(0, ends[-1])

    def parts(chosen: Bool[Tensor, " n"]) -> Iterator[tuple[Tensor, Tensor, Float[Tensor, "m p"], Tensor]]:
        """Row numbers, x, all components' outputs side by side, and the three targets side by side."""
        sites = [site for _, site in components.values()]
        for block, (which, at) in zip(rows.blocks(chosen), rows.kept.blocks(sites, chosen), strict=True):
            assert torch.equal(which, block.which)
            outputs = [sae(at[site].to(sae.W_enc)).double().cpu() for sae, site in components.values()]
            linear = split.probe(block.x)
            targets = torch.cat([block.error, linear, block.error - linear], dim=1)
            yield which, block.x, torch.cat(outputs, dim=1), targets

    equations = {name: NormalEquations(c.stop - c.start, len(TARGETS) * rows.d) for name, c in columns.items()}
    for _, _, outputs, targets in parts(~split.held):
        for name, sums in equations.items():
            sums.add(outputs[:, columns[name]], targets)
    fits: dict[str, LinearMap] = {name: sums.solve(fit_intercept=False) for name, sums in equations.items()}
    resamples = Resamples(rows.documents, split.held, seed=seed)
    whole = Unexplained(resamples)
    left = {name: {target: Unexplained(resamples) for target in TARGETS} for name in columns}
    for which, x, outputs, targets in parts(split.held):
        whole.add(x, targets[:, : rows.d], which)
        for name, fit in fits.items():
            residual = targets - fit(outputs[:, columns[name]])
            chunks = zip(TARGETS, targets.chunk(3, dim=1), residual.chunk(3, dim=1), strict=True)
            for target, truth, missed in chunks:
                left[name][target].add(truth, missed, which)
    return ComponentPrediction(
        r2={name: {target: found.r2() for target, found in by.items()} for name, by in left.items()},
        fvu_after={name: by["error"].fvu(of=whole) for name, by in left.items()},
    )
