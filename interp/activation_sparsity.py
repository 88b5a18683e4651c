"""How few neurons an MLP needs: exact zeros and Top-k (Lazy Neuron, arXiv 2210.06313), CETT (Sparsing Law, 2411.02335).

A neuron's contribution is n_i = W_out[:, i] a_i, where a is what enters the MLP's last projection: the activated input
of a plain MLP, gate times input of a gated one. Exact zeros mean something for ReLU only; GELU and SiLU have none, so
there a neuron counts as inactive where ||n_i|| is below a threshold of its layer, set so that what is dropped has a
given share of the output: CETT(e) = mean over tokens of ||sum of n_i with ||n_i|| < e|| / ||sum of all n_i||. PPL-p%
sparsity is the share of inactive neurons at the one CETT, shared by all layers, that raises perplexity by p percent.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import metrics
from interp.metrics import Estimate
from interp.models.feed_forward import output_weights, projection
from interp.models.loading import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site, layer_count

_THRESHOLDS = 64
"""Thresholds of each layer at which CETT is computed; between them it is interpolated."""
_STEPS = 30


@dataclass(frozen=True, kw_only=True)
class Nonzeros:
    """Share of neurons that are not exactly zero (or above ``eps``), ± over sequences."""

    share: Estimate
    """Over all layers."""
    layers: tuple[Estimate, ...]
    frequency: Float[Tensor, "layers d_mlp"]
    """Share of tokens on which each neuron is active; 0 for those that never are."""


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Share of neurons that can be dropped at one CETT."""

    cett: float
    """Asked for; thresholds are the largest that keep to it, by interpolation."""
    thresholds: tuple[float, ...]
    """Of ||n_i||, a layer."""
    share: Estimate
    """Of neurons below them, over layers and tokens; ± over sequences. The activation ratio is 1 minus this."""
    layers: tuple[Estimate, ...]
    perplexity_ratio: float
    """With those neurons at zero, over that of the whole model."""


@torch.no_grad()
def nonzeros(model: Any, tokens: Int[Tensor, "sequences position"], *, eps: float = 0.0) -> Nonzeros:
    """Neurons with |a| > ``eps``. Without ``eps`` this is 1 for GELU and SiLU: use :func:`ppl_sparsity` there."""
    require_raw_weights(model, purpose="measure activation sparsity")
    sites = [Site("mlp_post", layer) for layer in range(layer_count(model))]
    parts: list[list[Tensor]] = [[] for _ in sites]
    for rows in tokens.split(1):
        cache = capture(model, rows, sites, reduce=lambda a: (a.abs() > eps).double().mean(1))
        for found, site in zip(parts, sites, strict=True):
            found.append(cache[site].cpu())
    by_sequence = [torch.cat(part) for part in parts]  # [sequences, d_mlp] a layer
    return Nonzeros(
        share=metrics.mean(torch.stack([layer.mean(1) for layer in by_sequence]).mean(0)),
        layers=tuple(metrics.mean(layer.mean(1)) for layer in by_sequence),
        frequency=torch.stack([layer.mean(0) for layer in by_sequence]).float(),
    )


@contextmanager
def topk_mlps(model: Any, k: int) -> Iterator[None]:
    """Within the block every MLP keeps, for each token, its ``k`` activations of largest magnitude; others are zero.

    Of equal ones the first are kept. Gradients go through those kept. With k = d_mlp nothing changes.
    Raises ValueError for a k that is not from 1 to d_mlp.
    """
    width = output_weights(model, 0).shape[1]
    if not 1 <= k <= width:
        raise ValueError(f"k={k} is not from 1 to {width}, the neurons of an MLP")

    def keep(a: Tensor) -> Tensor:
        order = a.detach().abs().argsort(dim=-1, descending=True, stable=True)[..., :k]
        return a * torch.zeros_like(a).scatter(-1, order, 1)

    with _edited(model, [keep] * layer_count(model)):
        yield


@contextmanager
def pruned(model: Any, thresholds: Sequence[float]) -> Iterator[None]:
    """Within the block neurons with ||n_i|| below their layer's threshold are zero."""
    norms = [output_weights(model, layer).detach().norm(dim=0) for layer in range(layer_count(model))]

    def drop(norm: Tensor, threshold: float) -> Any:
        return lambda a: a * (a.abs() * norm >= threshold)

    with _edited(model, [drop(*each) for each in zip(norms, thresholds, strict=True)]):
        yield


def cett(
    a: Float[Tensor, "tokens d_mlp"], weights: Float[Tensor, "d_model d_mlp"], thresholds: Sequence[float]
) -> Float[Tensor, " thresholds"]:
    """Cumulative error of tail truncation at each threshold, averaged over tokens; biases are no neuron's output."""
    norms = a.abs() * weights.norm(dim=0)
    whole = (a @ weights.T).norm(dim=1).clamp_min(torch.finfo(a.dtype).tiny)
    return torch.stack([(((a * (norms < t)) @ weights.T).norm(dim=1) / whole).mean() for t in thresholds])


def ppl_sparsity(model: Any, tokens: Int[Tensor, "sequences position"], *, p: float = 1.0) -> Sparsity:
    """PPL-p% sparsity; the paper recommends p = 1.

    Bisection on CETT until the perplexity ratio is within 1e-4 of 1 + p / 100; where even CETT 1 does not raise it as
    far, the sparsity there, whose ``perplexity_ratio`` then says so.

    Raises ValueError for processed weights, and for a p that is not positive.
    """
    if not p > 0:
        raise ValueError(f"p={p} must be a positive percentage, such as 1")
    curves = _Curves(model, tokens)
    low, high = 0.0, 1.0
    best = curves.at(high)
    if best.perplexity_ratio <= 1 + p / 100:
        return best
    for _ in range(_STEPS):
        middle = (low + high) / 2
        best = curves.at(middle)
        if abs(best.perplexity_ratio - 1 - p / 100) < 1e-4:
            break
        low, high = (middle, high) if best.perplexity_ratio < 1 + p / 100 else (low, middle)
    return best


def sparsity_at(model: Any, tokens: Int[Tensor, "sequences position"], *, cett: float) -> Sparsity:
    """Sparsity at a CETT found elsewhere, as the paper carries the last checkpoint's back through training."""
    if not 0 <= cett <= 1:
        raise ValueError(f"cett={cett} is a share of the output's norm, from 0 to 1")
    return _Curves(model, tokens).at(cett)


class _Curves:
    """CETT and sparsity of every layer as functions of the threshold."""

    @torch.no_grad()
    def __init__(self, model: Any, tokens: Int[Tensor, "sequences position"]) -> None:
        require_raw_weights(model, purpose="measure activation sparsity")
        self._model, self._tokens = model, tokens
        self._loss = self._mean_loss()
        self._layers = [self._curve(layer) for layer in range(layer_count(model))]

    def at(self, level: float) -> Sparsity:
        thresholds = tuple(
            float(np.interp(level, errors, candidates)) if level else 0.0 for candidates, errors, _ in self._layers
        )
        shares = [
            torch.stack([(norms < threshold).double().mean() for norms in by_sequence])
            for threshold, (_, _, by_sequence) in zip(thresholds, self._layers, strict=True)
        ]
        with pruned(self._model, thresholds):
            loss = self._mean_loss()
        return Sparsity(
            cett=level,
            thresholds=thresholds,
            share=metrics.mean(torch.stack(shares).mean(0)),
            layers=tuple(map(metrics.mean, shares)),
            perplexity_ratio=float(np.exp(loss - self._loss)),
        )

    def _curve(self, layer: int) -> tuple[np.ndarray, np.ndarray, Float[Tensor, "sequences n"]]:
        """Thresholds, CETT at them, and ||n_i|| of every token; one layer's activations are in memory at a time."""
        site = Site("mlp_post", layer)
        a = torch.cat([capture(self._model, rows, [site])[site] for rows in self._tokens.split(1)]).float()
        weights = output_weights(self._model, layer).detach().float()
        norms = a.abs() * weights.norm(dim=0)
        ranks = np.linspace(0, 1, _THRESHOLDS)
        quantiles = np.quantile(norms.flatten()[:: max(1, norms.numel() // 1_000_000)].cpu().numpy(), ranks)
        candidates = np.maximum.accumulate(np.append(quantiles[:-1], float(norms.max()) * 1.001))
        errors = cett(a.flatten(0, 1), weights, candidates.tolist()).cpu().numpy()
        return candidates, np.maximum.accumulate(errors), norms.flatten(1).cpu()

    @torch.no_grad()
    def _mean_loss(self) -> float:
        losses = [metrics.cross_entropy(self._model(rows), rows).mean() for rows in self._tokens.split(1)]
        return float(torch.stack(losses).double().mean())


@contextmanager
def _edited(model: Any, edits: Sequence[Any]) -> Iterator[None]:
    """Edit what enters every layer's last projection; the hooks are gone afterwards, also after an error."""

    def hook(edit: Any) -> Any:
        return lambda _module, args: (edit(args[0]), *args[1:])

    with ExitStack() as hooks:
        for layer, edit in enumerate(edits):
            module: nn.Module = projection(model, layer)
            hooks.callback(module.register_forward_pre_hook(hook(edit)).remove)
        yield
