"""How few neurons an MLP needs: exact zeros and Top-k (Lazy Neuron, arXiv 2210.06313), CETT (Sparsing Law, 2411.02335).

A neuron's contribution is n_i = W_out[:, i] a_i, where a is what enters the MLP's last projection: the activated input
of a plain MLP, gate times input of a gated one. Exact zeros mean something for ReLU only; GELU and SiLU have none, so
there a neuron counts as inactive where ||n_i|| is at most a threshold of its layer, set so that what is dropped has a
given share of the output: CETT(e) = mean over tokens of ||sum of n_i with ||n_i|| <= e|| / ||sum of all n_i||. PPL-p%
sparsity is the share of inactive neurons at the one CETT, shared by all layers, that raises perplexity by p percent.

The published code looks for thresholds up to the 0.99 quantile of ||n_i||, so that it never reports a sparsity above
0.99; here they go up to the largest. The text is read again for every look, and of one layer of one sequence at a time
activations are in memory.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.models.feed_forward import output_weights
from interp.models.loading import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site, layer_count
from interp.sparsity.mlp_edits import edited, mean_loss
from interp.sparsity.truncation_error import ErrorCurve, contribution_norms, error_sums
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr

_STEPS = 30
_NEAR = 1e-4
"""Of the perplexity ratio: as near as a search comes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Nonzeros:
    """Share of neurons that are not exactly zero (or above ``eps``), ± over sequences.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.sparsity.nonzeros(model, torch.arange(1, 33)[None], eps=0.1)
        >>> found.frequency.shape  # layers, neurons
        torch.Size([4, 384])
        >>> (found.frequency == 0).sum(1).tolist()  # neurons of each layer that never were active
        [0, 8, 0, 0]
    """

    share: Estimate
    """The share over all layers together."""
    layers: tuple[Estimate, ...]
    """The share in each layer."""
    frequency: Float[Tensor, "layers d_mlp"]
    """Share of tokens on which each neuron is active; 0 for those that never are."""

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Share of neurons that can be dropped at one CETT.

    Example:
        >>> import interp
        >>> from interp.tokens.sequences import text_rows
        >>> model = interp.load_model("embedded")
        >>> tokens, _ = text_rows(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", sequences=2, context=32)
        >>> found = interp.sparsity.sparsity_at(model, tokens, cett=0.2)
        >>> [round(error, 2) for error in found.reached], [round(layer.value, 1) for layer in found.layers]
        ([0.2, 0.2, 0.2, 0.2], [0.9, 0.6, 0.8, 0.9])
        >>> found.perplexity_ratio > 1
        True
    """

    cett: float
    """Asked for, of all layers."""
    reached: tuple[float, ...]
    """Measured at the thresholds, a layer: ``cett`` but for one neuron's step."""
    thresholds: tuple[float, ...]
    """Of ||n_i||, a layer."""
    share: Estimate
    """Of neurons not above them, over layers and tokens; ± over sequences. The activation ratio is 1 minus this."""
    layers: tuple[Estimate, ...]
    """The same share in each layer."""
    perplexity_ratio: float
    """With those neurons at zero, over that of the whole model."""


@torch.no_grad()
def nonzeros(model: Model, tokens: Int[Tensor, "sequences position"], *, eps: float = 0.0) -> Nonzeros:
    """Neurons with |a| > ``eps``. Without ``eps`` this is 1 for GELU and SiLU: use :func:`ppl_sparsity` there.

    Example:
        >>> import interp
        >>> from interp.tokens.sequences import text_rows
        >>> model = interp.load_model("embedded")
        >>> tokens, _ = text_rows(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", sequences=2, context=64)
        >>> found = interp.sparsity.nonzeros(model, tokens, eps=0.1)
        >>> [round(layer.value, 2) for layer in found.layers]
        [0.75, 0.65, 0.64, 0.52]
    """
    require_raw_weights(model, purpose="measure activation sparsity")
    sites = [Site("mlp_post", layer) for layer in range(layer_count(model))]
    parts: list[list[Tensor]] = [[] for _ in sites]
    for rows in counted(tokens.split(1), "count active neurons", unit="rows"):
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
def topk_mlps(model: Model, k: int) -> Iterator[None]:
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

    with edited(model, [keep] * layer_count(model)):
        yield


@contextmanager
def pruned(model: Model, thresholds: Sequence[float]) -> Iterator[None]:
    """Within the block neurons with ||n_i|| at most their layer's threshold are zero."""

    def drop(layer: int, threshold: float) -> Any:
        weights = output_weights(model, layer).detach()
        return lambda a: a * (contribution_norms(a, weights) > threshold)

    if len(thresholds) != layer_count(model):
        raise ValueError(f"{len(thresholds)} thresholds for {layer_count(model)} layers; pass one a layer")
    with edited(model, [drop(layer, threshold) for layer, threshold in enumerate(thresholds)]):
        yield


def ppl_sparsity(model: Model, tokens: Int[Tensor, "sequences position"], *, p: float = 1.0) -> Sparsity:
    """PPL-p% sparsity; the paper recommends p = 1.

    Bisection on CETT until the perplexity ratio is within 1e-4 of 1 + p / 100; where even CETT 1 does not raise it as
    far, the sparsity there, whose ``perplexity_ratio`` then says so. On little text perplexity may rise, fall and rise
    again: the CETT is then an earlier one that gives as much, at an eighth, a quarter and a half of which perplexity is
    not above that, and a warning is logged.

    Raises ValueError for processed weights, and for a p that is not positive.

    Example:
        >>> import interp
        >>> from interp.tokens.sequences import text_rows
        >>> model = interp.load_model("embedded")
        >>> tokens, _ = text_rows(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", sequences=2, context=64)
        >>> found = interp.sparsity.ppl_sparsity(model, tokens, p=1.0)
        >>> round(found.perplexity_ratio, 2), 0.5 < found.share.value < 0.8
        (1.01, True)
    """
    check_percentage(p)
    curves = _Curves(model, tokens)
    level, rises = first_crossing(curves.perplexity_ratio, 1 + p / 100)
    if not rises:
        logger.warning(
            "perplexity rises, falls and rises again with CETT on these %d tokens: %.4f is about the first CETT that"
            " raises it by %g percent; more text tells it better",
            tokens.numel(),
            level,
            p,
        )
    return curves.at(level)


def first_crossing(ratio_of: Callable[[float], float], target: float) -> tuple[float, bool]:
    """Where a function of 0 to 1, below ``target`` at 0, reaches it (1 where it does not), and whether it was seen to
    stay below until there.

    Bisection finds any of several crossings, so that a larger target could have an earlier one. What it found gives way
    to an earlier crossing as long as the function is above ``target`` at an eighth, a quarter or a half of it.
    """
    level, rises = (_bisected(ratio_of, target, 1.0) if ratio_of(1.0) > target else 1.0), True
    while above := [part for part in (level / 8, level / 4, level / 2) if ratio_of(part) > target + _NEAR]:
        level, rises = _bisected(ratio_of, target, above[0]), False
    return level, rises


def _bisected(ratio_of: Callable[[float], float], target: float, high: float) -> float:
    low, middle = 0.0, high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        ratio = ratio_of(middle)
        if abs(ratio - target) < _NEAR:
            break
        low, high = (middle, high) if ratio < target else (low, middle)
    return middle


def check_percentage(p: float) -> None:
    """Raises ValueError for a rise in perplexity that is none."""
    if not 0 < p < float("inf"):
        raise ValueError(f"p={p} must be a positive percentage, such as 1")


def sparsity_at(model: Model, tokens: Int[Tensor, "sequences position"], *, cett: float) -> Sparsity:
    """Sparsity at a CETT found elsewhere, as the paper carries the last checkpoint's back through training.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> tokens = torch.arange(1, 33).view(2, 16)
        >>> few, many = (interp.sparsity.sparsity_at(model, tokens, cett=cett) for cett in (0.1, 0.4))
        >>> few.share.value < many.share.value  # dropping more of the output drops more neurons
        True
    """
    if not 0 <= cett <= 1:
        raise ValueError(f"cett={cett} is a share of the output's norm, from 0 to 1")
    return _Curves(model, tokens).at(cett)


class _Curves:
    """Thresholds of every layer as functions of CETT, and what pruning to them does to the loss."""

    @torch.no_grad()
    def __init__(self, model: Model, tokens: Int[Tensor, "sequences position"]) -> None:
        require_raw_weights(model, purpose="measure activation sparsity")
        self._model, self._tokens = model, tokens
        self._weights = [output_weights(model, layer).detach() for layer in range(layer_count(model))]
        largest = [0.0 for _ in self._weights]

        def look(layer: int, a: Tensor) -> None:
            largest[layer] = max(largest[layer], float(contribution_norms(a, self._weights[layer]).max()))

        self._loss = self._mean_loss(look)
        self._curves = [ErrorCurve(norm) for norm in largest]

    def perplexity_ratio(self, level: float) -> float:
        """Of the model pruned to ``level``, over that of the whole model."""
        with pruned(self._model, self._thresholds(level)):
            return float(np.exp(self._mean_loss() - self._loss))

    def at(self, level: float) -> Sparsity:
        """All that is known of one CETT."""
        thresholds = self._thresholds(level)
        shares: list[list[Tensor]] = [[] for _ in thresholds]
        errors = self._errors([[t] for t in thresholds], shares)
        by_sequence = [torch.stack(layer) for layer in shares]
        return Sparsity(
            cett=level,
            reached=tuple(error for (error,) in errors),
            thresholds=thresholds,
            share=metrics.mean(torch.stack(by_sequence).mean(0)),
            layers=tuple(map(metrics.mean, by_sequence)),
            perplexity_ratio=self.perplexity_ratio(level),
        )

    def _thresholds(self, level: float) -> tuple[float, ...]:
        while any(wanted := [curve.wanted(level) for curve in self._curves]):
            measured = self._errors([list(each.values()) for each in wanted])
            for curve, each, errors in zip(self._curves, wanted, measured, strict=True):
                curve.learn(dict(zip(each, errors, strict=True)))
        return tuple(curve.threshold(level) for curve in self._curves)

    @torch.no_grad()
    def _errors(
        self, thresholds: Sequence[Sequence[float]], shares: list[list[Tensor]] | None = None
    ) -> list[list[float]]:
        """CETT of every layer at its thresholds, in one pass; to ``shares`` goes, sequence by sequence, the share of
        neurons that are not above the layer's first one."""
        sums = [torch.zeros(len(each), dtype=torch.float64) for each in thresholds]
        counts = [0 for _ in thresholds]

        def look(layer: int, a: Tensor) -> None:
            if not thresholds[layer]:
                return
            found, count = error_sums(a, self._weights[layer], thresholds[layer])
            sums[layer] += found.double().cpu()
            counts[layer] += count
            if shares is not None:
                inactive = contribution_norms(a, self._weights[layer]) <= thresholds[layer][0]
                shares[layer].append(inactive.double().mean().cpu())

        self._mean_loss(look)
        return [(total / max(1, count)).tolist() for total, count in zip(sums, counts, strict=True)]

    @torch.no_grad()
    def _mean_loss(self, look: Callable[[int, Float[Tensor, "tokens d_mlp"]], None] | None = None) -> float:
        """Of the model as it stands, sequence by sequence; ``look`` sees what enters every layer's last projection."""

        def shown(layer: int) -> Any:
            def unchanged(a: Tensor) -> Tensor:
                if look is not None:
                    look(layer, a.flatten(0, -2))
                return a

            return unchanged

        with edited(self._model, [shown(layer) for layer in range(layer_count(self._model))]):
            return mean_loss(self._model, self._tokens)
