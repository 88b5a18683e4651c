"""What to train, as data: the same config and the same activations give the same weights.

The command line is made from this class, so nothing slow is imported before something is built.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp.arguments.fields import require_fields
from interp.counts import Count, Counts
from saes.training.optimiser.kinds import ADAM_BETAS, ADAM_EPS, KINDS

if TYPE_CHECKING:
    from saes.activations import Activation
    from saes.places.layout import Layout


LEAST_DEAD_AFTER = 20_480
"""Fewest tokens of silence after which a latent counts as dead by default, however short the run."""
UNSAID = {
    "adam_betas": [0.9, 0.999], "adam_eps": 1e-18, "budget": "part", "kind": None, "l0": None, "optimizer": "adam",
    "reads": [], "writes": [],
}  # fmt: skip
"""What a run's description leaves out where it is this: as runs were described before it could be another."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One SAE, or one dictionary over several places, and how it is trained.

    Example:
        >>> from pathlib import Path
        >>> import saes
        >>> config = saes.TrainConfig(site="blocks.2.hook_resid_post", out=Path("sae"), k=16, tokens=2_000_000)
        >>> config.steps
        489
    """

    site: str | None = None
    """Where in the model, for example blocks.2.hook_resid_post."""
    out: Path
    """Run folder; at the end it holds the SAE."""
    kind: Literal["transcoders", "clt", "crosscoder"] | None = None
    """A dictionary over several places, in place of --site. transcoders: one a layer; clt: cross-layer, whose latents
    write to all later layers too; crosscoder: latents that all places share."""
    reads: tuple[str, ...] = ()
    """Places that a --kind reads, for example blocks.*.mlp.hook_in: names or patterns of sites in the store."""
    writes: tuple[str, ...] = ()
    """Places that transcoders and clt write, one for each that is read, for example blocks.*.hook_mlp_out."""
    budget: Literal["part", "all"] = "part"
    """--k of batchtopk, and --l0, of transcoders and clt: part, every layer has so many latents active; all, layers
    share that times their number, so that it is their mean."""
    target_site: str | None = None
    """A transcoder's output, for example blocks.2.hook_mlp_out for the site blocks.2.hook_mlp_in."""
    skip: bool = False
    """A transcoder's linear skip connection."""
    activation: str = "topk"
    """topk, batchtopk, matryoshka, jumprelu, gated, relu or afa (top-AFA)."""
    k: int | None = None
    """Latents active at once: topk each, batchtopk and matryoshka on average; the others find their own number."""
    l0: float | None = None
    """Latents active a token, on average, that relu, gated and jumprelu are brought to while they are trained, by the
    weight of their sparsity loss: of transcoders and clt in each layer (see --budget), whereas l0 in the log is the sum
    over layers. By default the weight is kept, and they find their own number."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the activation, such as bandwidth of jumprelu."""
    d_sae: int = 8192
    """Number of latents of the SAE."""
    tokens: Count = 10_000_000
    """Activations to train on; passes over the store repeat, in a new order, until they are reached."""
    batch_size: int = 4096
    """Number of activations in each step."""
    optimizer: Literal["adam", "signum", "muon", "soap"] = "adam"
    """What moves the weights. Signum, Muon and SOAP move matrices, and Adam the biases and thresholds beside them."""
    lr: float | None = None
    """Peak learning rate; by default 0.08 / sqrt(d_in) (signum 0.03, muon 0.3), of relu twice, of afa a quarter of
    that, in runs of more than 1000 steps times sqrt(1000 / steps), of Adam with batches of 2,048 to
    8,192 times (batch / 2048)^0.4."""
    adam_betas: tuple[float, float] = ADAM_BETAS
    """How much of Adam's running means, of gradients and of their squares, each step keeps."""
    adam_eps: float = ADAM_EPS
    """What Adam adds to the root of the second mean: as large as the gradients of rare latents, it holds these back."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    decay: float = 0.2
    """Share of the steps, the last ones, over which it falls to zero."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Weights of loss terms (--loss-weights.l0 2) where they are not the activation's own; 0 leaves a term out."""
    sparsity_warmup: float = 0.05
    """Share of the steps over which the weight of a sparsity loss rises from zero."""
    dead_after_tokens: Count | None = None
    """Activations in a row on which a latent is silent before it counts as dead; by default a tenth of --tokens, but at
    least 20,480 and at most 204,800; of afa 20,480."""
    dead_after_steps: int | None = None
    """The same in steps, as it was before version 0.3: times batch_size."""
    decoder: Literal["unit_norm", "tied", "free"] = "unit_norm"
    """unit_norm: rows of W_dec keep norm 1, and the gradient that would only change it is removed; tied: W_enc is its
    transpose, too."""
    normalise: Literal["mean_norm", "variance", "layer_norm", "none"] | None = None
    """mean_norm: train on inputs scaled to a mean norm of sqrt(d_in); folded into the weights at the end. variance: to
    a mean square of 1 about their mean, so that no place of several owns the loss. layer_norm: on each activation minus
    its mean, over its standard deviation, which the SAE then does itself. By default mean_norm, for a --kind
    variance."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: matrix products under autocast; weights and moments stay float32."""
    latent_shards: int = 1
    """Of the processes that torchrun started, how many share the latents of the SAE; the others share the batch."""
    init_from: Path | None = None
    """Folder of an SAE to start from, instead of random weights."""
    seed: int = 0
    """Seed of the initial weights."""
    data_seed: int = 0
    """Seed of the order of the data."""
    checkpoint_every: int = 500
    """Steps from one checkpoint to the next."""
    keep_steps: Counts = ()
    """Steps at which a finished SAE is also written, below out/steps, such as 1k,2k,5k: dictionaries in training."""
    log_every: int = 10
    """Steps from one line of log.jsonl to the next."""
    device: str | None = None
    """Device such as cuda:1 or cpu; by default a GPU where there is one."""
    log_to: tuple[str, ...] = ()
    """tensorboard, wandb, trackio: where the figures of log.jsonl go too; what fails there never stops the run."""

    @property
    def layout(self) -> "Layout | None":
        """Places of a dictionary over several; None of an SAE or transcoder.

        Raises ValueError for places that do not fit together.
        """
        if self.kind is None:
            return None
        from saes.places.layout import Layout

        return Layout(self.kind, tuple(self.reads), tuple(self.writes or self.reads))

    @property
    def places(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the places read, and of those written."""
        if (layout := self.layout) is not None:
            return layout.reads, layout.writes
        assert self.site is not None
        return (self.site,), (self.target_site or self.site,)

    @property
    def normalisation(self) -> str:
        """See ``normalise``."""
        return self.normalise or ("mean_norm" if self.kind is None else "variance")

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(self.tokens / self.batch_size)

    def steps_a_pass(self, available: int) -> int:
        """Of a source with so many activations; the last of them takes what is left."""
        return math.ceil(available / self.batch_size)

    def __post_init__(self) -> None:
        for name in ("out", "init_from"):
            if isinstance(value := getattr(self, name), str | os.PathLike):
                object.__setattr__(self, name, Path(value))
        for name in ("reads", "writes", "adam_betas", "keep_steps", "log_to"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

    def peak_lr(self, d_in: int) -> float:
        """See ``lr``; ``d_in`` is the width that an SAE, or each part of a dictionary, reads."""
        if self.lr is not None:
            return self.lr
        return KINDS[self.optimizer].default_rate(
            d_in, steps=self.steps, batch_size=self.batch_size, scale=self.build_activation().rate_scale
        )

    @property
    def dead_after(self) -> int:
        """Tokens of silence, whichever way they were asked for. By default the activation's, but a tenth of a shorter
        run: who is revived later than that has no time to learn."""
        if self.dead_after_steps is not None:
            return self.dead_after_steps * self.batch_size
        if self.dead_after_tokens is not None:
            return self.dead_after_tokens
        return min(self.build_activation().dead_after_tokens, max(LEAST_DEAD_AFTER, self.tokens // 10))

    def build_activation(self) -> "Activation":
        """The activation with its options."""
        from saes.activations import activation_from_config

        return activation_from_config(
            {"name": self.activation, **self.options} | ({} if self.k is None else {"k": self.k})
        )

    def weights(self, activation: "Activation") -> dict[str, float]:
        """Terms with a weight other than 0, the reconstruction first."""
        weights = {"mse": 1.0, **activation.loss_weights, **self.loss_weights}
        return {name: weight for name, weight in weights.items() if weight}

    def to_json(self) -> dict[str, Any]:
        """Plain data, without what does not make a run another one: where it is, who is told of it, who computes, and
        what is kept on the way."""
        others = ("out", "log_to", "latent_shards", "device", "keep_steps")
        own = {name: value for name, value in asdict(self).items() if name not in others}
        plain = {name: _plain(value) for name, value in own.items()}
        plain["normalise"] = self.normalisation
        plain["lr"] = KINDS[self.optimizer].rule if self.lr is None else self.lr
        plain["dead_after_tokens"] = self.dead_after
        del plain["dead_after_steps"]
        of_kind = ("kind", "reads", "writes", "budget") if self.kind is not None else ()
        plain = {name: v for name, v in plain.items() if name in of_kind or name not in UNSAID or v != UNSAID[name]}
        return plain | {"init_from": None if self.init_from is None else str(self.init_from)}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


def check(config: TrainConfig) -> None:
    """Refuse what cannot be trained.

    Raises ValueError naming the setting, what is allowed, and the fix.
    """
    require_fields(config)
    from saes.activations import ACTIVATIONS
    from saes.losses import TERMS
    from saes.training.figures.sinks import SINKS

    for name in ("d_sae", "tokens", "batch_size", "checkpoint_every", "log_every", "latent_shards"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be 1 or more")
    for name in ("dead_after_tokens", "dead_after_steps"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if config.dead_after_tokens is not None and config.dead_after_steps is not None:
        raise ValueError("dead_after_tokens and dead_after_steps say the same: leave dead_after_steps out")
    for name in ("warmup", "decay", "sparsity_warmup"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it is a share of the steps, between 0 and 1")
    _check_optimizer(config)
    for name, value in (("lr", config.lr), ("clip", config.clip), ("adam_eps", config.adam_eps)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be above 0")
    if late := [step for step in config.keep_steps if not 1 <= step < config.steps]:
        raise ValueError(f"keep_steps names {late[0]}; it must be from 1 to {config.steps - 1}: the end is kept anyway")
    if strangers := set(config.log_to) - set(SINKS):
        raise ValueError(f"log_to names {', '.join(sorted(strangers))}; there are {', '.join(SINKS)}")
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {config.activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    with_k = [name for name, variant in ACTIVATIONS.items() if "k" in {f.name for f in fields(variant)}]
    if config.activation not in with_k and config.k is not None:
        raise ValueError(
            f"k is for {', '.join(with_k)}; {config.activation} finds its own number of latents: leave k out"
        )
    if config.l0 is not None:
        _check_l0(config)
    for name, weight in config.loss_weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"loss_weights: {name} is {weight!r}; it must be a number of 0 or more")
    if unknown := sorted(set(config.loss_weights) - set(TERMS)):
        raise ValueError(f"there is no loss term {', '.join(unknown)}; there are {', '.join(TERMS)}")
    own = {"gate_l1": "gated", "gate_mse": "gated", "l0": "jumprelu", "tanh": "jumprelu", "pre_act": "jumprelu"}
    for term, activation in own.items():
        if config.loss_weights.get(term) and config.activation != activation:
            raise ValueError(f"the loss term {term} is for {activation}, not for {config.activation}")
    _check_places(config)
    if config.decoder == "tied" and config.target_site is not None:
        raise ValueError("decoder='tied' is for SAEs: a transcoder's encoder and decoder belong to different sites")
    if config.normalise == "layer_norm" and config.target_site is not None:
        raise ValueError("normalise='layer_norm' is for SAEs: a transcoder's output has another mean and deviation")
    if config.skip and config.kind in (None, "crosscoder") and config.target_site is None:
        raise ValueError("skip is for transcoders: pass target_site too")


def _check_optimizer(config: TrainConfig) -> None:
    if not all(0 <= beta < 1 for beta in config.adam_betas):
        raise ValueError(f"adam_betas are {config.adam_betas}; they must be two numbers from 0 to below 1")
    if config.latent_shards > 1 and KINDS[config.optimizer].whole:
        able = ", ".join(name for name, kind in KINDS.items() if not kind.whole)
        raise ValueError(
            f"a step of {config.optimizer} takes all latents of a matrix together, and latent_shards ="
            f" {config.latent_shards} shares them between processes: leave it at 1, or choose one of {able}"
        )


def _check_l0(config: TrainConfig) -> None:
    from saes.activations import ACTIVATIONS
    from saes.losses import SPARSITY

    assert config.l0 is not None
    able = [name for name, variant in ACTIVATIONS.items() if variant.starts_sparse_by]
    if config.activation not in able:
        raise ValueError(f"l0 is for {', '.join(able)}, not for {config.activation}, which has a k or chooses itself")
    if not 0 < config.l0 <= config.d_sae / 4:
        raise ValueError(
            f"l0 is {config.l0:g}; it must be above 0 and at most a quarter of d_sae ({config.d_sae / 4:g})"
        )
    if not set(config.weights(config.build_activation())) & set(SPARSITY):
        raise ValueError(f"l0 controls the weight of a sparsity loss, and all are 0: give one of {', '.join(SPARSITY)}")


def _check_places(config: TrainConfig) -> None:
    if config.kind is None:
        if config.site is None:
            raise ValueError("no site: name one (site='blocks.2.hook_resid_post'), or a kind and the places it reads")
        if config.reads or config.writes:
            raise ValueError("reads and writes are for a kind (transcoders, clt, crosscoder); an SAE has a site")
        if config.budget != "part":
            raise ValueError("budget is for a kind of several parts: an SAE has one k, or l0")
        return
    if config.site is not None or config.target_site is not None:
        raise ValueError(f"a {config.kind} has reads and writes; leave site and target_site out")
    layout = config.layout
    assert layout is not None
    if config.decoder == "tied":
        raise ValueError(f"decoder='tied' is for SAEs of one site, not for a {config.kind}: unit_norm or free")
    if config.normalise == "layer_norm":
        raise ValueError(f"normalise='layer_norm' is for SAEs of one site, not for a {config.kind}: variance")
    if config.init_from is not None:
        raise ValueError(f"init_from is for SAEs of one site, not for a {config.kind}; leave it out")
    if config.budget == "all" and config.l0 is None and config.activation not in ("batchtopk", "matryoshka"):
        raise ValueError(
            f"budget='all' is for batchtopk and matryoshka, and for an l0; {config.activation} has no budget to share"
        )
