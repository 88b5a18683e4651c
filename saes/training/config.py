"""What to train, as data: the same config and the same activations give the same weights.

The command line is made from this class, so nothing slow is imported before something is built.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp.counts import Count

if TYPE_CHECKING:
    from saes.activations import Activation


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One SAE and how it is trained."""

    site: str
    """Where in the model, for example blocks.2.hook_resid_post."""
    out: Path
    """Run folder; at the end it holds the SAE."""
    target_site: str | None = None
    """A transcoder's output, for example blocks.2.hook_mlp_out for the site blocks.2.hook_mlp_in."""
    skip: bool = False
    """A transcoder's linear skip connection."""
    activation: str = "topk"
    """topk, batchtopk, matryoshka, jumprelu, gated, relu or afa (top-AFA)."""
    k: int | None = None
    """Latents active at once: topk each, batchtopk and matryoshka on average; the others find their own number."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the activation, such as bandwidth of jumprelu."""
    d_sae: int = 8192
    """Number of latents of the SAE."""
    tokens: Count = 10_000_000
    """Activations to train on; passes over the store repeat, in a new order, until they are reached."""
    batch_size: int = 4096
    """Number of activations in each step."""
    lr: float | None = None
    """Peak learning rate; by default 2e-4 / sqrt(d_sae / 16384)."""
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
    dead_after_steps: int | None = None
    """Steps of silence after which a latent counts as dead; by default the activation's own."""
    decoder: Literal["unit_norm", "tied", "free"] = "unit_norm"
    """unit_norm: rows of W_dec keep norm 1, and the gradient that would only change it is removed; tied: W_enc is its
    transpose, too."""
    normalise: Literal["mean_norm", "layer_norm", "none"] = "mean_norm"
    """mean_norm: train on inputs scaled to a mean norm of sqrt(d_in); folded into the weights at the end. layer_norm:
    on each activation minus its mean, over its standard deviation, which the SAE then does itself."""
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
    log_every: int = 10
    """Steps from one line of log.jsonl to the next."""
    device: str | None = None
    """Device such as cuda:1 or cpu; by default a GPU where there is one."""
    log_to: tuple[str, ...] = ()
    """tensorboard, wandb, trackio: where the figures of log.jsonl go too; what fails there never stops the run."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(self.tokens / self.batch_size)

    @property
    def peak_lr(self) -> float:
        """See ``lr``."""
        return 2e-4 / math.sqrt(self.d_sae / 16_384) if self.lr is None else self.lr

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
        """Plain data, without what does not make a run another one: where it is, who is told of it, who computes."""
        others = ("out", "log_to", "latent_shards", "device")
        own = {name: value for name, value in asdict(self).items() if name not in others}
        plain = {name: dict(v) if isinstance(v, Mapping) else v for name, v in own.items()}
        return plain | {"init_from": None if self.init_from is None else str(self.init_from)}


def check(config: TrainConfig) -> None:
    """Refuse what cannot be trained.

    Raises ValueError naming the setting, what is allowed, and the fix.
    """
    from saes.activations import ACTIVATIONS
    from saes.losses import TERMS
    from saes.training.sinks import SINKS

    for name in ("d_sae", "tokens", "batch_size", "checkpoint_every", "log_every", "latent_shards"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be 1 or more")
    for name in ("warmup", "decay", "sparsity_warmup"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it is a share of the steps, between 0 and 1")
    for name in ("peak_lr", "clip"):
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be above 0")
    if strangers := set(config.log_to) - set(SINKS):
        raise ValueError(f"log_to names {', '.join(sorted(strangers))}; there are {', '.join(SINKS)}")
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {config.activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    with_k = [name for name, variant in ACTIVATIONS.items() if "k" in {f.name for f in fields(variant)}]
    if config.activation not in with_k and config.k is not None:
        raise ValueError(
            f"k is for {', '.join(with_k)}; {config.activation} finds its own number of latents: leave k out"
        )
    if unknown := sorted(set(config.loss_weights) - set(TERMS)):
        raise ValueError(f"there is no loss term {', '.join(unknown)}; there are {', '.join(TERMS)}")
    own = {"gate_l1": "gated", "gate_mse": "gated", "l0": "jumprelu"}
    for term, activation in own.items():
        if config.loss_weights.get(term) and config.activation != activation:
            raise ValueError(f"the loss term {term} is for {activation}, not for {config.activation}")
    if config.decoder == "tied" and config.target_site is not None:
        raise ValueError("decoder='tied' is for SAEs: a transcoder's encoder and decoder belong to different sites")
    if config.normalise == "layer_norm" and config.target_site is not None:
        raise ValueError("normalise='layer_norm' is for SAEs: a transcoder's output has another mean and deviation")
    if config.skip and config.target_site is None:
        raise ValueError("skip is for transcoders: pass target_site too")
