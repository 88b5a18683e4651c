"""How good is an SAE: its reconstruction, its sparsity, and what the model loses when the SAE stands in for the site.

Everything streams over the text; per token only a few numbers are kept. Standard errors are over documents.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp import metrics
from interp.capturing import capture
from interp.metrics import Estimate
from interp.sites import Site
from interp.tokens import TokenRows
from saes.sae import SAE

DENSITY_EDGES = tuple(-6 + 0.25 * i for i in range(25))
"""Bins of log10(share of tokens on which a latent is active)."""
Splice = Callable[[Float[Tensor, "batch position d_in"]], Float[Tensor, "batch position d_in"]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures of one SAE on one text. Cross-entropy and KL are nats a predicted token."""

    site: str
    tokens: int
    documents: int
    d_sae: int
    fvu: Estimate
    """Fraction of variance unexplained, about the mean activation of this text."""
    explained_variance: Estimate
    mse: Estimate
    """A dimension."""
    cosine: Estimate
    l0: Estimate
    l0_histogram: dict[int, int]
    """Tokens by the number of their active latents."""
    dead_fraction: Estimate
    """Share of latents that no token of this text activates; the error is over latents."""
    density_histogram: tuple[int, ...]
    """Living latents by log10 of the share of tokens they are active on, bins ``DENSITY_EDGES``."""
    ce_clean: Estimate
    ce_spliced: Estimate
    """The SAE's reconstruction in place of the activation."""
    ce_zero: Estimate
    """Zero in its place."""
    ce_mean: Estimate
    """The mean activation of this text in its place."""
    ce_recovered_zero: Estimate
    """(CE_zero - CE_spliced) / (CE_zero - CE_clean)."""
    ce_recovered_mean: Estimate
    kl: Estimate
    """KL(clean || spliced)."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@torch.no_grad()
def evaluate(
    sae: SAE,
    model: Any,
    rows: TokenRows,
    *,
    site: str | Site | None = None,
    max_tokens: int = 100_000,
    first_position: int = 0,
    batch_rows: int = 8,
) -> Report:
    """Run ``model`` over the first rows of ``rows`` with the SAE spliced in at ``site`` (by default its own).

    Positions before ``first_position`` stay clean and are not counted, for SAEs that were not trained on them.
    Raises ValueError where the site or its width does not fit, or where no text is left.
    """
    named = sae.site if site is None else site
    if named is None:
        raise ValueError("this SAE does not say which site it belongs to; pass site=...")
    place = Site.parse(named)
    context = rows.ids.shape[1]
    count = min(len(rows.ids), -(-max_tokens // context))
    if count == 0 or not 0 <= first_position < context - 1:
        raise ValueError(
            f"no token to evaluate on: {len(rows.ids)} rows of {context} tokens, max_tokens {max_tokens},"
            f" first_position {first_position}; give more text"
        )
    mean = _mean_activation(model, rows, place, count, batch_rows, first_position)
    if len(mean) != sae.d_in:
        raise ValueError(f"activations at {place} have width {len(mean)}, the SAE takes {sae.d_in}; pass another site")
    token_values: dict[str, list[Tensor]] = {}
    active = torch.zeros(sae.d_sae, dtype=torch.int64)
    for ids, documents in _row_batches(rows, count, batch_rows):
        x = capture(model, ids, [place])[place].float()
        latents = sae.encode(x)
        values = _reconstruction(x, sae.decode(latents), latents.l0, mean)
        chosen = (latents.values != 0) & _counted(documents, first_position)[..., None]
        active += torch.bincount(latents.indices[chosen], minlength=sae.d_sae)
        clean = model(ids)
        splices: dict[str, Splice] = {
            "ce_spliced": sae.forward,
            "ce_zero": torch.zeros_like,
            "ce_mean": lambda value: mean.to(value.dtype).expand_as(value),
        }
        values["ce_clean"] = metrics.cross_entropy(clean, ids)
        for name, splice in splices.items():
            logits = spliced_logits(model, ids, place, splice, first_position=first_position)
            values[name] = metrics.cross_entropy(logits, ids)
            if name == "ce_spliced":
                values["kl"] = metrics.kl(clean, logits)[:, :-1]
        values |= {"documents": documents, "predicting_documents": documents[:, :-1]}
        counted = _counted(documents, first_position)
        for name, value in values.items():
            # A loss stands at the position before the token it is about, which padding is not.
            mask = counted if value.shape == counted.shape else counted[:, :-1] & counted[:, 1:]
            token_values.setdefault(name, []).append(value[mask])
    return _report(sae, place, {name: torch.cat(parts) for name, parts in token_values.items()}, active)


def spliced_logits(
    model: Any, ids: Int[Tensor, "batch position"], site: Site, splice: Splice, *, first_position: int = 0
) -> Float[Tensor, "batch position vocab"]:
    """Logits with ``splice(activation)`` in place of the activation at ``site``, from ``first_position`` on."""

    def hook(value: Tensor, hook: Any) -> Tensor:
        new = splice(value.float()).to(value.dtype)
        return torch.cat([value[:, :first_position], new[:, first_position:]], dim=1)

    return model.run_with_hooks(ids, fwd_hooks=[(str(site), hook)])


def _row_batches(rows: TokenRows, count: int, batch_rows: int) -> Any:
    for begin in range(0, count, batch_rows):
        window = slice(begin, min(begin + batch_rows, count))
        yield rows.tensor_of("ids", window), rows.tensor_of("documents", window)


def _counted(documents: Int[Tensor, "batch position"], first_position: int) -> Bool[Tensor, "batch position"]:
    """Positions that are measured: of a document, and not before ``first_position``."""
    counted = documents >= 0
    counted[:, :first_position] = False
    return counted


def _mean_activation(
    model: Any, rows: TokenRows, site: Site, count: int, batch_rows: int, first_position: int
) -> Float[Tensor, " d_in"]:
    sums, n = [], 0
    for ids, documents in _row_batches(rows, count, batch_rows):
        x = capture(model, ids, [site])[site][_counted(documents, first_position)]
        sums.append(x.double().sum(0))
        n += len(x)
    return (torch.stack(sums).sum(0) / n).float()


def _reconstruction(
    x: Float[Tensor, "batch position d_in"],
    x_hat: Float[Tensor, "batch position d_in"],
    l0: Int[Tensor, "batch position"],
    mean: Float[Tensor, " d_in"],
) -> dict[str, Float[Tensor, "batch position"]]:
    return {
        "error": (x - x_hat).square().sum(-1),
        "variance": (x - mean).square().sum(-1),
        "cosine": functional.cosine_similarity(x, x_hat, dim=-1),
        "l0": l0.float(),
    }


def _report(sae: SAE, site: Site, t: dict[str, Tensor], active: Int[Tensor, " d_sae"]) -> Report:
    documents, predicts = t["documents"], t["predicting_documents"]
    tokens = len(documents)
    unexplained = metrics.ratio(t["error"], t["variance"], groups=documents)
    losses = {name: t[name] for name in ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "kl")}
    means = {name: metrics.mean(value, groups=predicts) for name, value in losses.items()}

    def recovered(ablated: str) -> Estimate:
        return metrics.ce_recovered(clean=t["ce_clean"], spliced=t["ce_spliced"], ablated=t[ablated], groups=predicts)

    counts = torch.bincount(t["l0"].long())
    density = (active[active > 0] / tokens).log10()
    return Report(
        site=str(site),
        tokens=tokens,
        documents=unexplained.n,
        d_sae=sae.d_sae,
        fvu=unexplained,
        explained_variance=metrics.explained_variance(unexplained),
        mse=metrics.mean(t["error"] / sae.d_in, groups=documents),
        cosine=metrics.mean(t["cosine"], groups=documents),
        l0=metrics.mean(t["l0"], groups=documents),
        l0_histogram={i: int(n) for i, n in enumerate(counts) if n},
        dead_fraction=metrics.mean((active == 0).float()),
        density_histogram=tuple(int(n) for n in torch.histogram(density, torch.tensor(DENSITY_EDGES)).hist),
        ce_recovered_zero=recovered("ce_zero"),
        ce_recovered_mean=recovered("ce_mean"),
        **means,
    )
