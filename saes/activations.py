"""What turns pre-activations into sparse latents: one small object a variant, registered in ``ACTIVATIONS``.

A variant says, as data, what the rest of the code must know (its extra weights, its loss terms, how it is initialised)
and has one function, ``select``. Everything else about an SAE is the same for all.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saes.kernels.encode import PreActivations
from saes.latents import Latents, slots_above, slots_where
from saes.selection import kth_largest, nearest_in_norm
from saes.straight_through import jump

if TYPE_CHECKING:
    import saes.sae


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A weight that only some variants have."""

    per_latent: bool = True
    """Shape [d_sae], or a scalar."""
    initial: float = 0.0
    """Value of every entry before training."""
    learned: bool = True
    """By gradient; otherwise the variant's ``after_step`` sets it."""
    float32: bool = False
    """Kept in float32 whatever the weights are in: small updates of a threshold round away in bfloat16."""


@runtime_checkable
class Activation(Protocol):
    """A variant of sparse autoencoder: data about it, and the function that selects its latents."""

    name: ClassVar[str]
    extras: ClassVar[Mapping[str, Extra]]
    uses_b_enc: ClassVar[bool]
    unit_norm_encoder: ClassVar[bool]
    """Encoder columns start with norm 1 (else Kaiming-uniform over d_sae, as the AFA paper's)."""
    starts_at_mean: ClassVar[bool]
    """b_dec starts at the data's mean (else at zero)."""

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Terms of ``saes.losses.TERMS`` beside the reconstruction, with their default weights."""
        ...

    dead_after_tokens: ClassVar[int]
    """A latent silent on this many training tokens in a row is dead: the auxiliary loss revives it. In short runs fewer
    do (``TrainConfig.dead_after``)."""
    detach_aux_error: ClassVar[bool]
    """Whether the error that dead latents reconstruct is a constant to the live ones."""
    rate_scale: ClassVar[float]
    """Factor of the default learning rate."""
    starts_sparse_by: ClassVar[str | None]
    """Name of the weight that decides how many latents are active; training starts with few (None: the variant itself
    chooses how many)."""

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """Sparse latents from pre-activations; ``x_centred`` is the input as the encoder sees it."""
        ...

    def after_step(self, sae: "saes.sae.SAE", latents: Latents) -> None:
        """Keep the extras in order after an optimiser step on ``latents``; called without gradients."""
        ...

    def prefixes(self, d_sae: int) -> tuple[int, ...]:
        """Numbers of first latents that must reconstruct the input alone; the last is ``d_sae``."""
        ...


class _Common:
    """Defaults of the protocol, for variants that do not depart from them."""

    name: ClassVar[str]
    extras: ClassVar[Mapping[str, Extra]] = MappingProxyType({})
    uses_b_enc: ClassVar[bool] = True
    unit_norm_encoder: ClassVar[bool] = True
    starts_at_mean: ClassVar[bool] = True
    loss_weights: ClassVar[Mapping[str, float]] = MappingProxyType({"aux": 1 / 32})
    dead_after_tokens: ClassVar[int] = 204_800
    detach_aux_error: ClassVar[bool] = True
    rate_scale: ClassVar[float] = 1.0
    starts_sparse_by: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Options may come from a file or from a caller; both are told what is allowed.

        Raises ValueError.
        """
        for option, value in vars(self).items():
            _check_option(self.name, option, value)

    def after_step(self, sae: "saes.sae.SAE", latents: Latents) -> None:
        """Nothing to keep in order."""

    def prefixes(self, d_sae: int) -> tuple[int, ...]:
        """Only all latents together."""
        return (d_sae,)


@dataclass(frozen=True)
class ReLU(_Common):
    """Every positive pre-activation, kept few by an L1 loss on decoder-norm-scaled latents (Bricken et al. 2023).

    Example:
        >>> import saes
        >>> dict(saes.ReLU.loss_weights)
        {'l1': 3.0}
    """

    name: ClassVar[str] = "relu"
    loss_weights: ClassVar[Mapping[str, float]] = MappingProxyType({"l1": 3.0})
    rate_scale: ClassVar[float] = 2.0  # what L1 shrinks takes long to grow again (docs/sae-quality.md)
    starts_sparse_by: ClassVar[str | None] = "b_enc"

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """See the class."""
        slots = slots_where(pre.dense > 0)
        return Latents(slots.of(pre), slots.indices, sae.d_sae)


@dataclass(frozen=True)
class TopK(_Common):
    """The k largest pre-activations of each row, those above zero among them (Gao et al. 2024).

    Example:
        >>> import saes, torch
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> sae.encode(torch.randn(3, 96)).indices.shape
        torch.Size([3, 8])
    """

    k: int
    """Number of latents that each row may have active."""
    name: ClassVar[str] = "topk"

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """See the class."""
        k = min(self.k, sae.d_sae)
        if sae.training or x_centred.is_cuda:
            values, indices = pre.top(k)
        else:  # slots in the order in which sparsify has them, so that sums over them are equal to the bit
            indices = pre.dense.topk(k, dim=-1, sorted=False).indices
            values = pre.at(indices)
        return Latents(sae.group.keep_largest(values.relu(), self.k), indices, sae.d_sae)


@dataclass(frozen=True)
class BatchTopK(_Common):
    """The k · rows largest positive pre-activations of a whole batch (Bussmann et al. 2024).

    Outside training a row must not depend on its neighbours: there a latent is kept above ``threshold``, a running
    mean of the smallest value that training kept, which the end of a run replaces (``saes.training.calibration``),
    since a mean over changing weights lags behind them. With ``decoder_norms`` what competes, and what the threshold is
    compared with, is each pre-activation times the norm of its decoder row (Minder et al., arXiv 2504.02922).

    Example:
        >>> import saes
        >>> saes.SAE(96, 192, saes.BatchTopK(8))
        SAE(BatchTopK(k=8, decoder_norms=False), d_in=96, d_sae=192)
    """

    k: int
    """Number of latents that a row has active on average."""
    decoder_norms: bool = field(default=False, kw_only=True)
    """Whether latents compete by their pre-activation times the norm of their decoder row."""
    name: ClassVar[str] = "batchtopk"
    extras: ClassVar[Mapping[str, Extra]] = MappingProxyType(
        {"threshold": Extra(per_latent=False, learned=False, float32=True)}
    )
    threshold_rate: ClassVar[float] = 0.01
    """Share of the newest batch in the running mean."""

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """See the class; ``sae.training`` says which of the two."""
        scores, group = self.scores(sae, pre), sae.group
        if sae.training:
            rows = group.count(scores.numel()) // (sae.d_sae * group.latent_shards)
            smallest = kth_largest(scores, self.k * rows, group)
            # Never zero: a latent with value 0 is not active.
            slots = slots_above(scores, smallest.clamp_min(torch.finfo(scores.dtype).tiny))
        else:
            slots = slots_where(scores > sae.threshold.clamp_min(0))
        return Latents(slots.of(pre), slots.indices, sae.d_sae)

    @torch.no_grad()
    def scores(self, sae: "saes.sae.SAE", pre: PreActivations) -> Float[Tensor, "*batch d_sae"]:
        """What competes, without gradient."""
        return pre.dense * sae.decoder_norms() if self.decoder_norms else pre.dense

    def smallest_kept(self, sae: "saes.sae.SAE", latents: Latents) -> Float[Tensor, ""]:
        """Of the latents' scores, on all processes; infinity where there are none."""
        active = latents.values > 0
        kept = latents.values[active]
        return sae.group.smallest(kept * sae.decoder_norms()[latents.indices[active]] if self.decoder_norms else kept)

    def after_step(self, sae: "saes.sae.SAE", latents: Latents) -> None:
        """Move the threshold towards this batch's smallest kept score; the first batch sets it."""
        self.move_threshold(sae, self.smallest_kept(sae, latents))

    def move_threshold(self, sae: "saes.sae.SAE", smallest: Float[Tensor, ""]) -> None:
        """A step of the running mean; none where ``smallest`` is infinite."""
        if smallest.isfinite():
            rate = self.threshold_rate if sae.threshold > 0 else 1.0
            sae.threshold.lerp_(smallest.to(sae.threshold.dtype), rate)


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """BatchTopK whose first latents must reconstruct alone, prefix within prefix (Bussmann et al. 2025).

    Prefixes are shares of d_sae; the reconstruction loss is the mean over them.

    Example:
        >>> import saes
        >>> saes.Matryoshka(8, shares=(0.25, 1.0)).prefixes(192)
        (48, 192)
    """

    shares: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Shares of d_sae that reconstruct alone, rising; the last is 1."""
    name: ClassVar[str] = "matryoshka"
    loss_weights: ClassVar[Mapping[str, float]] = MappingProxyType({"aux": 1 / 4})
    """Eight times the others': what the last prefixes leave to their many latents is small."""

    def prefixes(self, d_sae: int) -> tuple[int, ...]:
        """See the class."""
        return tuple(max(1, round(share * d_sae)) for share in self.shares)


@dataclass(frozen=True)
class JumpReLU(_Common):
    """Pre-activations above a learned threshold of each latent (Rajamanoharan et al. 2024, arXiv 2407.14435).

    The threshold gets its gradient from pre-activations within ``bandwidth`` / 2 of it (a rectangular kernel), negative
    ones too where the threshold is smaller; in training, slots of such latents are kept, with value 0.

    Example:
        >>> import saes
        >>> saes.SAE(96, 192, saes.JumpReLU(bandwidth=0.1)).threshold.shape
        torch.Size([192])
    """

    bandwidth: float = 0.5
    """Width of the kernel, in the unit of pre-activations."""
    tanh_scale: float = 4.0
    """Factor inside the loss term ``tanh``, where that is asked for."""
    input_gradient: bool = False
    """Whether the kernel's gradient reaches the pre-activations too (``saes.straight_through.jump``); with the penalty
    ``tanh`` it does anyway."""
    penalty: Literal["l0", "tanh"] = "l0"
    """What keeps latents few: their number, or, as Anthropic trains it, a tanh of their size, together with a loss on
    what is below its threshold (Circuits Updates, January 2025)."""
    name: ClassVar[str] = "jumprelu"
    extras: ClassVar[Mapping[str, Extra]] = MappingProxyType({"threshold": Extra(initial=0.1, float32=True)})
    starts_sparse_by: ClassVar[str | None] = "threshold"

    @property
    def loss_weights(self) -> Mapping[str, float]:  # type: ignore[override]
        """See ``penalty``."""
        return {"l0": 2.0, "aux": 1.0} if self.penalty == "l0" else {"tanh": 2.0, "pre_act": 3e-6}

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """See the class."""
        threshold = sae.threshold.clamp_min(0)  # of another tool's file it may be negative
        margin = self.bandwidth / 2 if sae.training else 0.0
        slots = slots_where(pre.dense > threshold.detach() - margin)
        values = slots.of(pre, empty=-torch.inf)
        through = self.input_gradient or self.penalty == "tanh"
        above = jump(values, threshold[slots.indices], self.bandwidth, input_gradient=through)
        return Latents(above, slots.indices, sae.d_sae, values)

    def after_step(self, sae: "saes.sae.SAE", latents: Latents) -> None:
        """A threshold below zero would let negative pre-activations through."""
        sae.threshold.clamp_(min=0.0)


@dataclass(frozen=True)
class Gated(_Common):
    """One path says which latents are active, another how strongly (Rajamanoharan et al. 2024, arXiv 2404.16014).

    The gate is ``b_enc``'s path; magnitudes share its weights up to a factor exp(r_mag) and have a bias b_mag.

    Example:
        >>> import saes
        >>> sorted(saes.SAE(96, 192, saes.Gated()).activation.extras)
        ['b_mag', 'r_mag']
    """

    name: ClassVar[str] = "gated"
    extras: ClassVar[Mapping[str, Extra]] = MappingProxyType({"r_mag": Extra(), "b_mag": Extra()})
    loss_weights: ClassVar[Mapping[str, float]] = MappingProxyType({"gate_l1": 3.0, "gate_mse": 1.0, "aux": 1.0})
    starts_sparse_by: ClassVar[str | None] = "b_enc"

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """See the class."""
        slots = slots_where(pre.dense > 0)
        gate, where = slots.of(pre), slots.indices
        magnitude = (gate - sae.b_enc[where]) * sae.r_mag[where].exp() + sae.b_mag[where]
        return Latents(magnitude.relu() * slots.taken, where, sae.d_sae, gate)


@dataclass(frozen=True)
class TopAFA(_Common):
    """As many latents, largest first, as bring the norm of the latents nearest to the norm of the input.

    Lee et al., arXiv 2503.24277: contributions are decoder-norm scaled, the input is centred, and the last cumulative
    sum is overwritten by a sentinel. Theirs (``parity``, 1e8) selects every latent once the input's norm passes about
    5,000, as massive activations do; ``safe`` is infinity.

    Example:
        >>> import saes
        >>> saes.SAE(96, 192, saes.TopAFA())
        SAE(TopAFA(sentinel='safe'), d_in=96, d_sae=192)
    """

    sentinel: Literal["safe", "parity"] = "safe"
    """What overwrites the last cumulative sum: infinity (``safe``) or the published 1e8 (``parity``)."""
    name: ClassVar[str] = "afa"
    uses_b_enc: ClassVar[bool] = False
    unit_norm_encoder: ClassVar[bool] = False
    starts_at_mean: ClassVar[bool] = False
    loss_weights: ClassVar[Mapping[str, float]] = MappingProxyType({"afa": 1 / 32, "aux": 1 / 32})
    dead_after_tokens: ClassVar[int] = 20_480  # the paper's 5 batches of 4,096
    rate_scale: ClassVar[float] = 0.25
    detach_aux_error: ClassVar[bool] = False

    def select(self, sae: "saes.sae.SAE", pre: PreActivations, x_centred: Float[Tensor, "*batch d_in"]) -> Latents:
        """See the class. The selection has no gradient; the values of what it keeps have."""
        with torch.no_grad():
            # Half precision over thousands of terms would destroy the nearest match, so at least float32.
            wide = torch.promote_types(pre.dense.dtype, torch.float32)
            contributions = (pre.dense.relu().to(wide) * sae.decoder_norms().to(wide)).square()
            target = x_centred.to(wide).norm(dim=-1, keepdim=True)
            last = torch.inf if self.sentinel == "safe" else 1e8
            rows, k = nearest_in_norm(contributions.flatten(0, -2), target.flatten(0, -2), last=last, group=sae.group)
            rows, kept = sae.group.own(rows, torch.arange(rows.shape[-1], device=k.device) < k, sae.d_sae)
            indices, kept = (t.reshape(*pre.dense.shape[:-1], rows.shape[-1]) for t in (rows, kept))
        return Latents(pre.at(indices).relu() * kept, indices, sae.d_sae)


ACTIVATIONS: dict[str, Any] = {
    variant.name: variant for variant in (TopK, BatchTopK, JumpReLU, Gated, Matryoshka, ReLU, TopAFA)
}
"""Name -> class."""


def activation_from_config(config: dict[str, Any]) -> Activation:
    """The object that ``activation_to_config`` described; its values come from a file and are checked."""
    options = dict(config)
    name = options.pop("name", None)
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; this version has {', '.join(ACTIVATIONS)}")
    variant = ACTIVATIONS[name]
    known = {field.name for field in fields(variant)}
    if not set(options) <= known:
        raise ValueError(f"activation {name} has no option {sorted(set(options) - known)}; it has {sorted(known)}")
    for option in {"k", *options} & known:  # before a value of another type reaches a field
        _check_option(name, option, options.get(option))
    if "shares" in options:  # a list, in JSON
        options["shares"] = tuple(map(float, options["shares"]))
    return variant(**options)


def _check_option(activation: str, option: str, value: Any) -> None:
    number = isinstance(value, float | int)
    if option == "k" and (type(value) is not int or value < 1):
        raise ValueError(f"activation {activation} needs k, a whole number of 1 or more (--k 32); got {value!r}")
    if option == "sentinel" and value not in ("safe", "parity"):
        raise ValueError(f"sentinel is 'safe' or 'parity', not {value!r}")
    if option == "penalty" and value not in ("l0", "tanh"):
        raise ValueError(f"penalty is {value!r}; it is 'l0' or 'tanh'")
    if option == "bandwidth" and not (number and value > 0):
        raise ValueError(f"bandwidth is {value!r}; it must be a number above 0")
    if option == "tanh_scale" and not (number and 0 < value < math.inf):
        raise ValueError(f"tanh_scale is {value!r}; it must be a number above 0")
    if option in ("decoder_norms", "input_gradient") and type(value) is not bool:
        raise ValueError(f"{option} is {value!r}; it must be true or false")
    if option == "shares":
        numbers = isinstance(value, list | tuple) and all(isinstance(share, float | int) for share in value)
        if not numbers or not value or value[-1] != 1 or list(value) != sorted(set(value)) or value[0] <= 0:
            raise ValueError(f"shares are {value!r}; they must be rising numbers above 0, the last of them 1")


def activation_to_config(activation: Activation) -> dict[str, Any]:
    """JSON for ``cfg.json``: the variant's name and its options."""
    return {"name": activation.name} | asdict(activation)  # type: ignore[call-overload]
