"""What an evaluation keeps of every token: a few numbers, of which every figure, of any of the tokens, is a ratio."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from interp import metrics
from interp.massive.massive_tokens import MASSIVE_TIMES
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.sites.site import Site
from interp.sites.splicing import edited_logits, looking, spliced_logits
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr
from interp.tokens.batches import measured, row_batches
from interp.tokens.token_rows import TokenRows
from saes.latents import Latents
from saes.sae import SAE

Rows = TypeVar("Rows", bound="NormTable")


@dataclass(frozen=True, kw_only=True)
class NormTable:
    """A row a measured token, with what :func:`saes.evaluation.afa_quality.afa_quality` asks of it.

    Norms of z, z_hat and f are compared with each other: of an SAE with ``layer_norm`` they are in its own units.
    """

    documents: Int[Tensor, " n"]
    """Number of the document that each token is of."""
    l0: Float[Tensor, " n"]
    """How many latents are active."""
    z_squared: Float[Tensor, " n"]
    """||z||^2, with z the SAE's target (its input, except in a transcoder)."""
    z_hat_squared: Float[Tensor, " n"]
    """||z_hat||^2, the squared norm of the reconstruction."""
    f_squared: Float[Tensor, " n"]
    """Squared norm of the scaled latents and b_dec, see :func:`feature_norm_squared`."""

    def __len__(self) -> int:
        return len(self.documents)

    def where(self: Rows, mask: Bool[Tensor, " n"]) -> Rows:
        """Some of the rows."""
        return type(self)(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def mean(self, values: Float[Tensor, " n"]) -> Estimate:
        """Of one number a token; the standard error is over documents."""
        return metrics.mean(values, groups=self.documents)


@dataclass(frozen=True, kw_only=True)
class TokenTable(NormTable):
    """A row a measured token. Squares are in the activation's unit squared, losses in nats for the next token.

    Example:
        >>> import interp, saes, torch
        >>> from saes.evaluation import measure_tokens
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae, site = sae.initialise(seed=0, mean=torch.zeros(96)), interp.Site("resid_post", 2)
        >>> table = measure_tokens(sae, model, rows, site, site, count=2, batch_rows=2, first_position=0).table
        >>> late = table.where(table.positions >= 128)
        >>> len(table), len(late), late.mean(late.l0).value
        (512, 256, 8.0)
    """

    positions: Int[Tensor, " n"]
    """In the row, which is what the model sees."""
    massive: Bool[Tensor, " n"]
    """Whether the activation's norm is far above the text's median."""
    predicts: Bool[Tensor, " n"]
    """Whether the next position is measured too: padding and the row's end are not predicted. Losses mean nothing
    elsewhere."""
    error: Float[Tensor, " n"]
    """||z - z_hat||^2 of each token."""
    variance: Float[Tensor, " n"]
    """||z - mean||^2, about the mean of all tokens."""
    variance_ordinary: Float[Tensor, " n"]
    """The same about the mean of the tokens that are not massive."""
    cosine: Float[Tensor, " n"]
    """Cosine of z with z_hat."""
    ce_clean: Float[Tensor, " n"]
    """Loss of the model as it is."""
    ce_spliced: Float[Tensor, " n"]
    """Loss with the reconstruction in place of the activation."""
    ce_zero: Float[Tensor, " n"]
    """Loss with zero in place of the activation."""
    ce_mean: Float[Tensor, " n"]
    """Loss with the mean activation in place of it."""
    ce_ordinary: Float[Tensor, " n"]
    """Spliced, but massive tokens stay clean."""
    kl: Float[Tensor, " n"]
    """KL(clean || spliced) of the next token's distribution."""

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the model was run for: as few times a batch as there are losses, four or five; of further SAEs of the same
    place one or two."""

    table: TokenTable
    """The numbers of every measured token."""
    active: Int[Tensor, " d_sae"]
    """Number of tokens that each latent is active on."""
    massive_norm: float
    """``MASSIVE_TIMES`` the median norm of the SAE's inputs."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An SAE, where it reads, and where what it reconstructs is."""

    sae: SAE
    """The SAE or transcoder itself."""
    site: Site
    """Whose activations it reads."""
    target: Site
    """Whose activations it reconstructs."""

    def from_site(self, x: Float[Tensor, "batch position _"]) -> Float[Tensor, "batch position _"]:
        """What it gives for activations at its site."""
        return self.sae(x.to(self.sae.W_enc.dtype))


def measure_tokens(
    sae: SAE,
    model: Model,
    rows: TokenRows,
    site: Site,
    target: Site,
    *,
    count: int,
    batch_rows: int,
    first_position: int,
    drop_tokens: Sequence[int] = (),
) -> Measured:
    """:func:`measure_together` of one SAE.

    Example:
        >>> import interp, saes, torch
        >>> from saes.evaluation import measure_tokens
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae, site = sae.initialise(seed=0, mean=torch.zeros(96)), interp.Site("resid_post", 2)
        >>> found = measure_tokens(sae, model, rows, site, site, count=2, batch_rows=2, first_position=0)
        >>> len(found.table), found.active.sum().item() / len(found.table)  # 8 latents a token
        (512, 8.0)
    """
    (found,) = measure_together(
        [Placed(sae=sae, site=site, target=target)],
        model,
        rows,
        count=count,
        batch_rows=batch_rows,
        first_position=first_position,
        drop_tokens=drop_tokens,
    )
    return found


@torch.no_grad()
def measure_together(
    members: Sequence[Placed],
    model: Model,
    rows: TokenRows,
    *,
    count: int,
    batch_rows: int,
    first_position: int,
    drop_tokens: Sequence[int] = (),
) -> list[Measured]:
    """Run the model over the first ``count`` rows, and keep nothing wider than a number a token and SAE.

    Three sweeps, since the mean, and which tokens are massive, are known only after the first: clean (one run for all
    SAEs), zero (one for all SAEs of a place) and each SAE spliced; each spliced without massive tokens, in batches that
    have some; mean (one for all SAEs of a place). Each later sweep looks at the clean activation in the run that
    replaces it. An SAE's figures are those of measuring it alone.

    Raises ValueError where an SAE has another width than its site, or its target runs before it.
    """
    device = next(model.parameters()).device
    every = [_OfSAE(member) for member in members]
    places = {(one.site, one.target): _AtPlace([]) for one in members}
    for one in every:
        places[one.member.site, one.member.target].saes.append(one)

    def batches(sweep: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        steps = row_batches(rows, count, batch_rows, device=device)
        for ids, documents in counted(steps, f"evaluate, {sweep} sweep of 3", -(-count // batch_rows), unit="batches"):
            yield ids, documents, measured(documents, first_position, ids=ids, drop_tokens=drop_tokens)

    for ids, documents, kept in batches("first"):
        seen: dict[Site, Tensor] = {}
        clean = edited_logits(model, ids, looking([s for m in members for s in (m.site, m.target)], seen))
        for member in members:
            _check_fit(member, seen)
        for place in places.values():
            place.first(model, ids, documents, kept, seen, clean)
    for place in places.values():
        place.find_massive()
    for number, (ids, _, kept) in enumerate(batches("second")):
        for place in places.values():
            place.without_massive(number, model, ids, kept)
    for ids, _, kept in batches("third"):
        for place in places.values():
            place.about_means(model, ids, kept)
    return [places[one.member.site, one.member.target].measured(one) for one in every]


class _Columns:
    """Of some columns the values of every batch so far."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = defaultdict(list)

    def keep(self, kept: Tensor, **values: Tensor) -> None:
        """The values of measured tokens."""
        for name, value in values.items():
            self.parts[name].append(value[kept].cpu())


class _OfSAE(_Columns):
    """What is kept of one SAE, a sweep at a time."""

    def __init__(self, member: Placed) -> None:
        super().__init__()
        self.member = member
        self.active = torch.zeros(member.sae.d_sae, dtype=torch.int64)

    def first(self, model: Model, ids: Tensor, kept: Tensor, seen: dict[Site, Tensor], clean: Tensor) -> None:
        """Of a batch the run with the reconstruction in the activation's place."""
        sae, target = self.member.sae, self.member.target
        given = seen[self.member.site].to(sae.W_enc.dtype)
        latents = sae.encode(given)
        x, z, z_hat = seen[self.member.site].float(), seen[target].float(), sae.decode(latents, given).float()
        spliced = spliced_logits(model, ids, target, z_hat, where=kept)
        self.keep(
            kept,
            error=(z - z_hat).square().sum(-1),
            cosine=functional.cosine_similarity(z, z_hat, dim=-1),
            **norms(sae, x, z, latents, z_hat),
            # A row at a time: the probabilities of a whole batch are several times its logits.
            kl=torch.stack([metrics.kl(*pair) for pair in zip(clean, spliced, strict=True)]),
            ce_spliced=_loss(spliced, ids),
        )
        chosen = latents.indices[(latents.values != 0) & kept[..., None]]
        self.active += torch.bincount(chosen, minlength=sae.d_sae).cpu()

    def without_massive(self, model: Model, ids: Tensor, kept: Tensor, massive: Tensor) -> Tensor:
        """Of a batch the run with the reconstruction in place of the tokens that are not massive; the clean target."""
        member, seen = self.member, dict[Site, Tensor]()
        logits = spliced_logits(
            model,
            ids,
            member.target,
            lambda: member.from_site(seen[member.site]),
            where=kept & ~massive,
            before=looking((member.site, member.target), seen),
        )
        self.keep(kept, ce_ordinary=_loss(logits, ids))
        return seen[member.target].float()


class _AtPlace(_Columns):
    """What is kept of a place, whichever SAE is there: the clean activation, and the runs without it; and its SAEs."""

    def __init__(self, saes: list[_OfSAE]) -> None:
        super().__init__()
        self.saes = saes
        self.norms: list[Tensor] = []
        self.total = self.total_massive = torch.zeros((), dtype=torch.float64)

    def first(
        self, model: Model, ids: Tensor, documents: Tensor, kept: Tensor, seen: dict[Site, Tensor], clean: Tensor
    ) -> None:
        """Of a batch what the clean run shows, and the runs with zero and with each reconstruction in its place."""
        member = self.saes[0].member
        z = seen[member.target].float()
        zero = spliced_logits(model, ids, member.target, torch.zeros_like(z), where=kept)
        self.keep(
            kept,
            documents=documents,
            positions=torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
            predicts=functional.pad(kept[:, 1:], (0, 1)),
            ce_clean=_loss(clean, ids),
            ce_zero=_loss(zero, ids),
        )
        del zero
        self.norms.append(seen[member.site].float().norm(dim=-1)[kept].cpu())
        self.total = self.total.to(z.device) + z[kept].double().sum(0)
        for one in self.saes:
            one.first(model, ids, kept, seen, clean)

    def find_massive(self) -> None:
        """After the first sweep: which tokens are massive."""
        if not sum(map(len, self.norms)):
            raise ValueError("no token is left to evaluate on: every token is special or left out; give more text")
        self.massive_norm = MASSIVE_TIMES * float(torch.cat(self.norms).median())
        self.parts["massive"] = [part > self.massive_norm for part in self.norms]

    def without_massive(self, number: int, model: Model, ids: Tensor, kept: Tensor) -> None:
        """Of a batch the runs with a reconstruction in place of the tokens that are not massive."""
        massive = torch.zeros_like(kept).masked_scatter(kept, self.parts["massive"][number].to(kept.device))
        if not massive.any():
            for one in self.saes:
                one.parts["ce_ordinary"].append(one.parts["ce_spliced"][number])
            return
        for one in self.saes:
            z = one.without_massive(model, ids, kept, massive)
        self.total_massive = self.total_massive.to(z.device) + z[massive].double().sum(0)

    def about_means(self, model: Model, ids: Tensor, kept: Tensor) -> None:
        """Of a batch the run with the mean in the activation's place, and squares about means."""
        target, seen = self.saes[0].member.target, dict[Site, Tensor]()
        is_massive = torch.cat(self.parts["massive"])
        mean = (self.total / len(is_massive)).float()
        ordinary = ((self.total - self.total_massive.to(mean.device)) / (~is_massive).sum()).float()
        logits = spliced_logits(model, ids, target, mean, where=kept, before=looking([target], seen))
        z = seen[target].float()
        self.keep(
            kept,
            variance=(z - mean).square().sum(-1),
            variance_ordinary=(z - ordinary).square().sum(-1),
            ce_mean=_loss(logits, ids),
        )

    def measured(self, one: _OfSAE) -> Measured:
        """All of one of its SAEs."""
        columns = {name: torch.cat(parts) for name, parts in (self.parts | one.parts).items()}
        return Measured(table=TokenTable(**columns), active=one.active, massive_norm=self.massive_norm)


def _check_fit(member: Placed, seen: dict[Site, Tensor]) -> None:
    sae, site, target = member.sae, member.site, member.target
    order = list(seen)
    if order.index(target) < order.index(site):
        raise ValueError(f"{target} runs before {site}, so nothing read there can stand in for it; pass another site")
    for place, takes in ((site, sae.d_in), (target, sae.d_out)):
        if (width := seen[place].shape[-1]) != takes:
            raise ValueError(f"activations at {place} have width {width}, the SAE's is {takes}; pass another site")


def _loss(logits: Float[Tensor, "batch position vocab"], ids: Int[Tensor, "batch position"]) -> Tensor:
    """At the position before the token that it is about."""
    return functional.pad(metrics.cross_entropy(logits, ids), (0, 1))


def norms(
    sae: SAE,
    x: Float[Tensor, "batch position d_in"],
    z: Float[Tensor, "batch position d_out"],
    latents: Latents,
    z_hat: Float[Tensor, "batch position d_out"],
) -> dict[str, Float[Tensor, "batch position"]]:
    """The columns of :class:`NormTable` that an SAE's input, target, latents and output give."""
    return {
        "l0": latents.l0.float(),
        "z_squared": sae.normalised(z, as_=x).double().square().sum(-1),
        "z_hat_squared": sae.normalised(z_hat, as_=x).double().square().sum(-1),
        "f_squared": feature_norm_squared(sae, latents),
    }


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
