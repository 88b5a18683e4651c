"""Attention logits and entropy, log Z, sizes of activations and gradients of one model on some rows of tokens."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import metrics
from interp.checkpoints.curves import Measurement, Quantity, quantity
from interp.inference_mode import refuse_inference_mode
from interp.metrics import Estimate
from interp.models.plain import plain_module, require_tested_family
from interp.models.source import require_raw_weights
from interp.passes.together import Ask, Steps, alone, counted_steps
from interp.sites.site import Site, available_sites
from interp.terminal.short_repr import short_repr

RMS_KINDS = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_post", "mlp_out", "resid_post")
"""Sites whose size is measured."""
Z_LOSS = 1e-4
"""Weight of mean log² Z in the auxiliary loss of arXiv 2309.14322."""
CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Where an attention logit is largest.

    Example:
        >>> from interp.monitors import Peak
        >>> Peak(value=42.0, sequence=0, head=1, query=9, key=2).query
        9
    """

    value: float
    """The logit itself, as the softmax sees it."""
    sequence: int
    """Sequence of the batch that it is in."""
    head: int
    """Number of the head in its layer, from 0."""
    query: int
    """Position of the query, from 0."""
    key: int
    """Position of the key, from 0."""


@dataclass(frozen=True, kw_only=True)
class Monitors:
    """Figures of one model. A maximum grows with the number of tokens: compare those of equal rows only.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.monitors.measure(model, torch.arange(1, 33)[None])
        >>> found.largest.shape  # layers, sequences, heads
        torch.Size([4, 1, 3])
        >>> [round(each.value, 1) for each in found.rms("resid_post")]
        [3.9, 4.0, 4.9, 7.0]
        >>> sorted(found.gradient_rms())
        ['0', '1', '2', '3', 'other']
    """

    largest: Float[Tensor, "layers sequences heads"]
    """The largest attention logit as it enters the softmax, over the pairs that the mask allows."""
    peaks: tuple[Peak, ...]
    """Of every layer, where that is."""
    softcap: float | None
    """What the model caps its attention logits at; ``largest`` is after it."""
    entropy: Float[Tensor, "layers sequences heads"]
    """Of the pattern, nats, mean over queries."""
    mean_squares: dict[str, Float[Tensor, "layers sequences"]]
    """Kind of site -> mean square of its entries, for the layers that have it."""
    log_z: Float[Tensor, "sequences positions"]
    """logsumexp of the output's logits, nats."""
    log_z_tokens: Float[Tensor, "sequences positions"] | None
    """The same without rows of the vocabulary that no token of the tokenizer has; None where there are none."""
    loss: Estimate
    """Nats a token, over sequences."""
    gradients: dict[str, tuple[float, int]] | None
    """Parameter -> RMS of the mean loss's gradient, and its entries; None without the backward pass."""
    shape: tuple[int, int]
    """Sequences, and tokens in each."""

    __repr__ = short_repr

    @property
    def uncapped(self) -> tuple[float, ...]:
        """Of every layer, its largest logit before the soft cap; infinite where the cap is reached to rounding."""
        if self.softcap is None:
            return tuple(peak.value for peak in self.peaks)
        shares = [peak.value / self.softcap for peak in self.peaks]
        return tuple(math.atanh(s) * self.softcap if abs(s) < 1 - 1e-6 else math.inf for s in shares)

    @property
    def z_loss(self) -> Estimate:
        """10⁻⁴ mean log² Z, over sequences."""
        return metrics.mean(Z_LOSS * self.log_z.square().mean(1))

    def rms(self, kind: str) -> tuple[Estimate, ...]:
        """Of every layer that has it, the RMS of a kind of site; ± over sequences."""
        return tuple(_root(metrics.mean(layer)) for layer in self.mean_squares[kind])

    def gradient_rms(self) -> dict[str, float]:
        """RMS of the gradients of every block ("0", "1", …) and of all other parameters ("other")."""
        if self.gradients is None:
            raise ValueError("gradients were not measured: pass backward=True")
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, (rms, entries) in self.gradients.items():
            numbers = [part for part in name.split(".") if part.isdigit()]
            total = sums[numbers[0] if numbers else "other"]
            total[0], total[1] = total[0] + rms**2 * entries, total[1] + entries
        return {name: math.sqrt(square / entries) for name, (square, entries) in sums.items()}

    def quantities(self) -> dict[str, Quantity]:
        """As curves over training take them."""
        rows = self.shape[0]

        def exact(values: tuple[float, ...]) -> Quantity:
            return quantity([Estimate(value, math.nan, rows) for value in values])

        found = {
            "max_attention_logit": exact(tuple(peak.value for peak in self.peaks)),
            "attention_entropy": quantity([metrics.mean(layer.mean(1)) for layer in self.entropy]),
            "log_z": quantity([metrics.mean(self.log_z.mean(1))]),
            "log_z_rms": quantity([_root(metrics.mean(self.log_z.square().mean(1)))]),
            "z_loss": quantity([self.z_loss]),
            "loss": quantity([self.loss]),
        }
        if self.softcap is not None:
            found["max_attention_logit_uncapped"] = exact(self.uncapped)
        if self.log_z_tokens is not None:
            found["log_z_tokens"] = quantity([metrics.mean(self.log_z_tokens.mean(1))])
        for kind in self.mean_squares:
            found[f"rms_{kind}"] = quantity(self.rms(kind))
        if self.gradients is not None:
            blocks = {name: Estimate(rms, math.nan, rows) for name, rms in self.gradient_rms().items()}
            found["gradient_rms"] = quantity(blocks)
            each = {name: Estimate(rms, math.nan, rows) for name, (rms, _) in self.gradients.items()}
            found["gradient_rms_by_tensor"] = quantity(each)
        return found


def measure(
    model: Any, tokens: Int[Tensor, "sequences position"], *, backward: bool = True, batch: int = 1
) -> Monitors:
    """Measure the monitors of arXiv 2309.14322 on some rows.

    The attention logit is q·k as it enters the softmax: scaled as the model does, capped where it does, without pairs
    that the mask rules out. Entropy is of the softmax over them. log Z = logsumexp(logits) moves with a constant added
    to all logits although no probability does. Gradients are those of the mean loss over all rows; none is left in
    ``.grad``.

    Args:
        model: from ``load_model``.
        tokens: rows of one length without padding.
        backward: gradients too.
        batch: sequences a pass.

    Returns:
        Monitors: figures by layer and sequence.

    Raises:
        ValueError: processed weights; a family in which no test compared the logits; fewer than two tokens a row; a
            model in training mode; gradients under inference mode.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.monitors.measure(model, torch.arange(1, 33)[None])
        >>> len(found.peaks), found.log_z.shape
        (4, torch.Size([1, 32]))
    """
    steps = monitor_steps(model, tokens, backward=backward, batch=batch)
    return alone(model, counted_steps(steps, "look at activations", -(-len(tokens) // batch)))


def monitor_steps(
    model: Any, tokens: Int[Tensor, "sequences position"], *, backward: bool = True, batch: int = 1
) -> Steps[Monitors]:
    """:func:`measure`, which may share its forward passes; the one with gradients is its own."""
    require_raw_weights(model, purpose="measure monitors")
    require_tested_family(model, "attention logits")
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)}; give [sequences, position] with two positions or more"
        )
    if backward:
        refuse_inference_mode("measuring gradients", model)
    present = available_sites(model)
    kinds = [kind for kind in RMS_KINDS if any(site.kind == kind for site in present)]
    scores = [site for site in present if site.kind == "scores"]
    sites = [site for site in present if site.kind in kinds]
    parts: dict[Site, list[Tensor]] = defaultdict(list)
    last = Site("logits")
    known = None if model.tokenizer is None else len(model.tokenizer)
    outputs: list[_Output] = []
    for rows in tokens.split(batch):

        def reduce(site: Site, value: Tensor, rows: Tensor = rows) -> Tensor:
            if site == last:
                outputs.append(_of_logits(value, rows.to(value.device), known))
                return value.new_zeros(0)
            return _reduced(value)

        # With gradients the model runs once more, and its logits are those of that run.
        asked = (*scores, *sites) if backward else (*scores, *sites, last)
        found = yield Ask(rows=rows, sites=asked, reduce=reduce)
        for site in (*scores, *sites):
            parts[site].append(found[site].cpu())
    reduced = {site: torch.cat(values) for site, values in parts.items()}
    logits = torch.stack([reduced[site] for site in scores])
    gradients = None
    if backward:
        outputs, gradients = _run_backward(model, tokens, batch=batch, known=known)
    *columns, width = zip(*outputs, strict=True)
    log_z, log_z_tokens, losses = map(torch.cat, columns)
    length = tokens.shape[1]
    return Monitors(
        largest=logits[..., 0],
        peaks=tuple(_peak(layer, length) for layer in logits),
        softcap=getattr(model.original_model.config, "attn_logit_softcapping", None),
        entropy=logits[..., 2],
        mean_squares={kind: torch.stack([reduced[site] for site in sites if site.kind == kind]) for kind in kinds},
        log_z=log_z,
        log_z_tokens=log_z_tokens if known is not None and known < width[0] else None,
        loss=metrics.mean(losses),
        gradients=gradients,
        shape=(tokens.shape[0], length),
    )


def measurement(*, backward: bool = True) -> Measurement:
    """:func:`measure` for :func:`interp.checkpoints.sweep`.

    Example:
        >>> import interp
        >>> interp.monitors.measurement(backward=False).settings
        {'backward': False}
    """
    titles = {
        "max_attention_logit": "Largest attention logit",
        "max_attention_logit_uncapped": "Largest attention logit before the soft cap",
        "attention_entropy": "Entropy of attention, nats",
        "log_z": "Mean log Z of the output, nats",
        "log_z_rms": "Root mean square of log Z, nats",
        "log_z_tokens": "Mean log Z without unused rows of the vocabulary, nats",
        "z_loss": "z-loss, 1e-4 mean log² Z",
        "loss": "Loss, nats a token",
        **{f"rms_{kind}": f"Root mean square of {kind}" for kind in RMS_KINDS},
        "gradient_rms": "Root mean square of the loss's gradient",
    }
    return Measurement(
        name="monitors",
        code=CODE,
        run=lambda model, tokens: measure(model, tokens, backward=backward).quantities(),
        titles=titles,
        settings={"backward": backward},
    )


def _reduced(value: Tensor) -> Tensor:
    """Of scores, per sequence and head: the largest, its place, the mean entropy. Of others the mean square."""
    dtype, value = value.dtype, value.float()
    if value.ndim != 4:
        return value.square().flatten(1).mean(1)
    length = value.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=value.device).tril()
    allowed = causal & (value > torch.finfo(dtype).min / 2)  # masked entries are at the dtype's lowest number, or -inf
    visible = value.masked_fill(~allowed, -torch.inf)
    largest, place = visible.flatten(2).max(-1)
    logs = visible.log_softmax(-1)
    entropy = -(logs.exp() * logs.masked_fill(~allowed, 0)).sum(-1).mean(-1)
    return torch.stack([largest.double(), place.double(), entropy.double()], -1)


def _peak(layer: Float[Tensor, "sequences heads figures"], length: int) -> Peak:
    sequence, head = divmod(int(layer[..., 0].argmax()), layer.shape[1])
    query, key = divmod(int(layer[sequence, head, 1]), length)
    return Peak(value=float(layer[sequence, head, 0]), sequence=sequence, head=head, query=query, key=key)


_Output = tuple[Float[Tensor, "batch position"], Float[Tensor, "batch position"], Float[Tensor, " batch"], int]
"""Of a batch log Z over the vocabulary, over tokens that the tokenizer has, losses by row, and how many rows it has."""


@torch.no_grad()
def _of_logits(
    logits: Float[Tensor, "batch position vocab"], rows: Int[Tensor, "batch position"], known: int | None
) -> _Output:
    logits = logits.float()
    losses = metrics.cross_entropy(logits, rows).mean(1)
    return logits.logsumexp(-1).cpu(), logits[..., :known].logsumexp(-1).cpu(), losses.cpu(), logits.shape[-1]


def _run_backward(
    model: Any, tokens: Tensor, *, batch: int, known: int | None
) -> tuple[list[_Output], dict[str, tuple[float, int]]]:
    """What :func:`_of_logits` has of every batch, and the RMS and entries of gradients, by the original modules, whose
    parameters are those that were trained."""
    plain = plain_module(model, purpose="measure monitors")
    device = next(plain.parameters()).device
    parameters = dict(plain.named_parameters())
    frozen = [p for p in parameters.values() if not p.requires_grad]
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    outputs: list[_Output] = []
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for rows in tokens.split(batch):
                rows = rows.to(device)
                logits = plain(input_ids=rows).logits.float()
                loss = metrics.cross_entropy(logits, rows).mean(1)
                outputs.append(_of_logits(logits.detach(), rows, known))
                _add_gradients(sums, loss.sum() / len(tokens), parameters)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return outputs, {name: (float(g.double().square().mean().sqrt()), g.numel()) for name, g in sums.items()}


def _add_gradients(sums: dict[str, Tensor], loss: Tensor, parameters: dict[str, nn.Parameter]) -> None:
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            sums[name] += gradient.float()


def _root(square: Estimate) -> Estimate:
    """The root of an estimate, its error by the delta method."""
    root = math.sqrt(square.value)
    return Estimate(root, square.standard_error / (2 * root) if root else math.nan, square.n)
