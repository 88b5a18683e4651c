"""What an evaluation keeps of every token: a few numbers, of which every figure, of any of the tokens, is a ratio."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from interp import metrics
from interp.metrics import Estimate
from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.sites.splicing import spliced_logits
from interp.tokens.batches import measured, row_batches
from interp.tokens.token_rows import TokenRows
from saes.evaluation.baseline import Reference
from saes.latents import Latents
from saes.sae import SAE


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """A row a measured token. Squares are in the activation's unit squared, losses in nats for the next token.

    Norms of z, z_hat and f are compared with each other: of an SAE with ``layer_norm`` they are in its own units.
    """

    documents: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    """In the row, which is what the model sees."""
    massive: Bool[Tensor, " n"]
    predicts: Bool[Tensor, " n"]
    """Whether the next position is measured too: padding and the row's end are not predicted. Losses mean nothing
    elsewhere."""
    error: Float[Tensor, " n"]
    """||z - z_hat||^2, with z the SAE's target (its input, except in a transcoder)."""
    variance: Float[Tensor, " n"]
    """||z - mean||^2, about the mean of all tokens."""
    variance_ordinary: Float[Tensor, " n"]
    """The same about the mean of the tokens that are not massive."""
    cosine: Float[Tensor, " n"]
    l0: Float[Tensor, " n"]
    z_squared: Float[Tensor, " n"]
    z_hat_squared: Float[Tensor, " n"]
    f_squared: Float[Tensor, " n"]
    """Squared norm of the scaled latents and b_dec, see :func:`feature_norm_squared`."""
    ce_clean: Float[Tensor, " n"]
    ce_spliced: Float[Tensor, " n"]
    ce_zero: Float[Tensor, " n"]
    ce_mean: Float[Tensor, " n"]
    ce_ordinary: Float[Tensor, " n"]
    """Spliced, but massive tokens stay clean."""
    kl: Float[Tensor, " n"]
    """KL(clean || spliced)."""

    def __len__(self) -> int:
        return len(self.documents)

    def where(self, mask: Bool[Tensor, " n"]) -> "TokenTable":
        """Some of the rows."""
        return TokenTable(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def mean(self, values: Float[Tensor, " n"]) -> Estimate:
        """Of one number a token; the standard error is over documents."""
        return metrics.mean(values, groups=self.documents)


@torch.no_grad()
def measure_tokens(
    sae: SAE,
    model: Any,
    rows: TokenRows,
    site: Site,
    target: Site,
    known: Reference,
    *,
    count: int,
    batch_rows: int,
    first_position: int,
) -> tuple[TokenTable, Int[Tensor, " d_sae"]]:
    """The table of the first ``count`` rows, and the number of tokens that each latent is active on."""
    device = sae.W_enc.device
    mean, ordinary_mean = known.mean.to(device), known.ordinary_mean.to(device)
    columns: dict[str, list[Tensor]] = {field.name: [] for field in fields(TokenTable)}
    active = torch.zeros(sae.d_sae, dtype=torch.int64)
    for ids, documents in row_batches(rows, count, batch_rows, device=device):
        found = capture(model, ids, [site, target], attention_mask=documents >= 0)
        x, z, given = found[site].float(), found[target].float(), found[site].to(sae.W_enc.dtype)
        latents = sae.encode(given)
        z_hat = sae.decode(latents, given).float()
        kept = measured(documents, first_position)
        massive = x.norm(dim=-1) > known.massive_norm
        chosen = latents.indices[(latents.values != 0) & kept[..., None]]
        active += torch.bincount(chosen, minlength=sae.d_sae).cpu()

        def spliced(replacement: Tensor, where: Tensor, ids: Tensor = ids) -> Tensor:
            return spliced_logits(model, ids, target, replacement.expand(*ids.shape, -1), where=where)

        def loss(logits: Tensor, ids: Tensor = ids) -> Tensor:
            """At the position before the token that it is about."""
            return functional.pad(metrics.cross_entropy(logits, ids), (0, 1))

        clean, logits = model(ids), spliced(z_hat, kept)
        values = {
            "documents": documents,
            "positions": torch.arange(ids.shape[1], device=device).expand_as(ids),
            "massive": massive,
            "predicts": functional.pad(kept[:, 1:], (0, 1)),
            "error": (z - z_hat).square().sum(-1),
            "variance": (z - mean).square().sum(-1),
            "variance_ordinary": (z - ordinary_mean).square().sum(-1),
            "cosine": functional.cosine_similarity(z, z_hat, dim=-1),
            "l0": latents.l0.float(),
            "z_squared": sae.normalised(z, as_=x).double().square().sum(-1),
            "z_hat_squared": sae.normalised(z_hat, as_=x).double().square().sum(-1),
            "f_squared": feature_norm_squared(sae, latents),
            "kl": metrics.kl(clean, logits),
            "ce_clean": loss(clean),
            "ce_spliced": loss(logits),
            "ce_zero": loss(spliced(torch.zeros_like(mean), kept)),
            "ce_mean": loss(spliced(mean, kept)),
        }
        clean_massive = bool(massive[kept].any())
        values["ce_ordinary"] = loss(spliced(z_hat, kept & ~massive)) if clean_massive else values["ce_spliced"]
        for name, value in values.items():
            columns[name].append(value[kept].cpu())
    return TokenTable(**{name: torch.cat(parts) for name, parts in columns.items()}), active


def feature_norm_squared(sae: SAE, latents: Latents, *, bias: bool = True) -> Float64[Tensor, "*batch"]:
    """||f||^2 of each row: squares of the latents times their decoder norms, and of ||b_dec|| unless ``bias`` is off.

    A skip connection is no feature. These are the features of arXiv 2503.24277, as in the paper's code: of a dictionary
    whose unit columns overlap by epsilon or less, h of them, any z = D f has
    ``| ||z||^2 - ||f||^2 | <= epsilon (h - 1) ||f||^2``, and the divisor of ``epsilon_lbo`` stays h - 1 = d_sae - 1.
    """
    scaled = latents.values.double() * sae.decoder_norms().double()[latents.indices]
    squared = scaled.square().sum(-1)
    return squared + sae.b_dec.double().square().sum() if bias else squared


def epsilon_lbo(
    z_squared: Float[Tensor, "*batch"], f_squared: Float[Tensor, "*batch"], *, d_sae: int
) -> Float[Tensor, "*batch"]:
    """| ||z||^2 - ||f||^2 | / ((d_sae - 1) ||f||^2) of each row: infinite where only f is zero, 0 where z is too."""
    gap = (z_squared - f_squared).abs()
    return torch.where(gap == 0, 0.0, gap / (max(1, d_sae - 1) * f_squared))
