"""Loss terms: pure functions of one forward pass, named in ``TERMS``. Each is unweighted.

Sums over latents are divided by d_in, as the squared error is: with inputs of mean norm sqrt(d_in) a weight then means
the same at every width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import vector_norm

from saes.activations import JumpReLU
from saes.latents import Latents
from saes.sae import SAE
from saes.straight_through import step


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass of an SAE, which every term reads."""

    sae: SAE
    """The SAE that ran."""
    x: Float[Tensor, "n d_in"]
    """Activations that it was given."""
    target: Float[Tensor, "n d_out"]
    """What is to be reconstructed: ``x`` itself, except in a transcoder."""
    latents: Latents
    """Its latents on these activations."""
    x_hat: Float[Tensor, "n d_out"]
    """What it reconstructs of the target."""
    dead: Bool[Tensor, " d_sae"]
    """Which latents count as dead at this step."""
    n_dead: int
    """On all processes that share the latents."""


def run(sae: SAE, x: Float[Tensor, "n d_in"], target: Float[Tensor, "n d_out"], dead: Bool[Tensor, " d_sae"]) -> Pass:
    """The forward pass of a training step."""
    latents = sae.encode(x)
    n_dead = int(sae.group.over_latents(dead.sum()))
    return Pass(sae=sae, x=x, target=target, latents=latents, x_hat=sae.decode(latents, x), dead=dead, n_dead=n_dead)


def mse(p: Pass) -> Float[Tensor, ""]:
    """Mean over rows and dimensions, and over the prefixes that a Matryoshka SAE reconstructs from."""
    group, d_sae = p.sae.group, p.sae.d_sae
    sizes = p.sae.activation.prefixes(d_sae * group.latent_shards)[:-1]
    shorter = [p.sae.decode(p.latents.below(size - group.first_latent(d_sae)), p.x) for size in sizes]
    errors = [(p.target - x_hat).square().mean() for x_hat in (*shorter, p.x_hat)]
    return sum(errors[1:], errors[0]) / len(errors)


def l1(p: Pass) -> Float[Tensor, ""]:
    """Mean over rows of sum_i f_i ||W_dec_i||, over d_in: what shrinking f and growing W_dec cannot cheat."""
    return _mean_sum(p, p.latents.values * p.sae.decoder_norms()[p.latents.indices])


def l0(p: Pass) -> Float[Tensor, ""]:
    """Mean number of latents above their thresholds, over d_in; the gradient goes to the thresholds alone."""
    assert p.latents.pre is not None
    assert isinstance(p.sae.activation, JumpReLU)
    return _mean_sum(p, step(p.latents.pre, p.sae.threshold[p.latents.indices], p.sae.activation.bandwidth))


def tanh(p: Pass) -> Float[Tensor, ""]:
    """Mean over rows of sum_i tanh(c f_i ||W_dec_i||), over d_in: about the number of latents that are far above zero.

    Ameisen et al. 2025 ("Circuit tracing"), whose norm is that of the decoder over all places written; c is JumpReLU's
    ``tanh_scale``. It is published with a weight that rises over the whole run (``sparsity_warmup`` 1).
    """
    scale = p.sae.activation.tanh_scale  # type: ignore[attr-defined]
    return _mean_sum(p, (scale * p.latents.values * p.sae.decoder_norms()[p.latents.indices]).tanh())


def pre_act(p: Pass) -> Float[Tensor, ""]:
    """Mean over rows of sum_i max(0, threshold_i - pre_i) ||W_dec_i||, over d_in: what brings silent latents back.

    Ameisen et al. 2025. Over all latents, so it takes dense pre-activations, and their dense gradient.
    """
    below = (p.sae.threshold - p.sae.pre_activations(p.x)).relu()
    return _mean_sum(p, below * p.sae.decoder_norms())


def gate_l1(p: Pass) -> Float[Tensor, ""]:
    """Gated: L1 of the rectified gates, scaled by the decoder's norms, over d_in (arXiv 2404.16014, equation 8)."""
    assert p.latents.pre is not None
    return _mean_sum(p, p.latents.pre * p.sae.decoder_norms()[p.latents.indices])


def _mean_sum(p: Pass, slots: Float[Tensor, "n k_max"]) -> Float[Tensor, ""]:
    """Mean over rows of the sum over latents, over d_in."""
    return p.sae.group.over_latents(slots.sum(-1).mean()) / p.sae.d_in


def gate_mse(p: Pass) -> Float[Tensor, ""]:
    """Gated: the rectified gates must reconstruct too, through a decoder that takes no gradient from it."""
    assert p.latents.pre is not None
    gates = Latents(p.latents.pre, p.latents.indices, p.latents.d_sae)
    return (p.target - p.sae.decode(gates, p.x, frozen=True)).square().mean()


def afa(p: Pass, *, mode: Literal["paper", "centred"] = "paper") -> Float[Tensor, ""]:
    """Mean over rows of (||f|| - ||x||)^2: the latents' norm should be the input's (arXiv 2503.24277).

    ``paper``: raw ||x|| and unscaled f, as in the published code, although its selection centres and scales.
    ``centred``: ||x - b_dec|| and f scaled by the decoder's norms, consistent with the selection.
    """
    if mode == "paper":
        f, target = p.latents.values, p.sae.normalised(p.x)
    else:
        f, target = p.latents.values * p.sae.decoder_norms()[p.latents.indices], p.sae.centred(p.x)
    return (p.sae.group.row_norm(f) - vector_norm(target, dim=-1)).square().mean()


def afa_centred(p: Pass) -> Float[Tensor, ""]:
    """``afa`` in its centred mode."""
    return afa(p, mode="centred")


def aux(p: Pass, *, k: int = 512) -> Float[Tensor, ""]:
    """AuxK (Gao et al. 2024): mean squared error left when each row's ``k`` largest dead latents reconstruct the error.

    0 where none is dead. A dead latent writes its rectified pre-activation, without what keeps it silent: a threshold,
    or the b_enc of relu and gated, without which no row would have a gradient. The gradient reaches the dead latents'
    W_enc, b_enc and W_dec, and the live ones through the error where the variant does not detach it.
    """
    number = min(k, p.n_dead)
    if number == 0:
        return p.x.new_zeros(())
    error = p.target - p.x_hat
    if p.sae.activation.detach_aux_error:
        error = error.detach()
    rows = p.dead.nonzero().squeeze(-1)
    pre, group = p.sae.pre_activations(p.x, only=rows), p.sae.group
    if p.sae.activation.starts_sparse_by == "b_enc":
        pre = pre - p.sae.b_enc[rows].detach()  # its value alone: its gradient raises it where the error asks for more
    values, indices = pre.relu().topk(min(number, len(rows)), dim=-1, sorted=False)
    rebuilt = Latents(group.keep_largest(values, number), indices, len(rows)).to_dense() @ p.sae.W_dec[rows]
    return (error - group.over_latents(rebuilt)).square().mean()


TERMS: Mapping[str, Callable[[Pass], Float[Tensor, ""]]] = MappingProxyType(
    {
        "mse": mse,
        "l1": l1,
        "l0": l0,
        "tanh": tanh,
        "pre_act": pre_act,
        "gate_l1": gate_l1,
        "gate_mse": gate_mse,
        "afa": afa,
        "afa_centred": afa_centred,
        "aux": aux,
    }
)
SPARSITY = ("l1", "l0", "tanh", "gate_l1")
"""Terms that a sparsity warm-up raises from zero."""
