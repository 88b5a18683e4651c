"""Top singular values, stable rank and measured gain of every matrix of every block."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp import metrics
from interp.checkpoints.curves import Measurement, Quantity, quantity
from interp.gains.singular_values import top_singular_values
from interp.metrics import Estimate
from interp.models.bridge import unwrapped
from interp.models.plain import require_tested_family
from interp.models.source import require_raw_weights
from interp.terminal.progress import counted

MATRICES = ("q", "k", "v", "o", "gate", "in", "out")
"""Of a block: the attention's four, and the MLP's two or three. Fused projections are taken apart; grouped keys and
values have matrices of their own, smaller ones."""
CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@dataclass(frozen=True, kw_only=True)
class MatrixGain:
    """One matrix.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.gains.gains(model, torch.arange(1, 33).view(2, 16))
        >>> (matrix := found[0]).matrix, matrix.stable_rank >= 1
        ('q', True)
    """

    layer: int
    """Block that the matrix is in, from 0."""
    matrix: str
    """Which one of :data:`MATRICES` it is."""
    shape: tuple[int, int]
    """How many outputs and inputs it has."""
    sigma1: float
    """Largest singular value, the most that it stretches anything."""
    sigma2: float
    """The next: far below the first where one direction, such as a massive activation's, is all there is."""
    stable_rank: float
    """||W||² / sigma1² in the Frobenius norm."""
    gain: Estimate
    """RMS(W x) / RMS(x) over all entries of all positions, bias left out; ± over sequences."""


@torch.no_grad()
def gains(model: Any, tokens: Int[Tensor, "sequences position"], *, batch: int = 1) -> tuple[MatrixGain, ...]:
    """Measure every matrix of every block on what enters it when the model reads ``tokens``.

    A norm's gain belongs to the norm, not to the matrix behind it. Embeddings, whose rows are vectors of their own, are
    left out. A matrix from few to many dimensions has a gain that the root of their ratio enters: RMS, not norm.

    Args:
        model: from ``load_model``.
        tokens: rows of one length without padding.
        batch: sequences a forward pass.

    Returns:
        By layer, in the order of :data:`MATRICES`.

    Raises:
        ValueError: processed weights; a family in which no test compared the matrices; no tokens.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.gains.gains(model, torch.arange(1, 33)[None])
        >>> found[0].matrix, found[0].shape
        ('q', (96, 96))
    """
    require_raw_weights(model, purpose="measure gains")
    require_tested_family(model, "gains")
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"tokens have shape {list(tokens.shape)}; give [sequences, position], one or more of each")
    places = {
        (layer, name): module
        for layer, block in enumerate(model.blocks)
        for name in MATRICES
        if isinstance(
            module := (block.mlp if name in ("gate", "in", "out") else block.attn)._modules.get(name), nn.Module
        )
    }
    weights = {place: _weight(module) for place, module in places.items()}
    squares: dict[tuple[int, str], list[Float[Tensor, "batch two"]]] = {place: [] for place in places}

    def reader(place: tuple[int, str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach()
            y = x @ weights[place].T
            squares[place].append(torch.stack([v.double().square().flatten(1).mean(1) for v in (y, x)], 1).cpu())

        return hook

    with ExitStack() as hooks:
        for place, module in places.items():
            hooks.callback(module.register_forward_pre_hook(reader(place)).remove)
        for rows in counted(tokens.split(batch), "measure gains", unit="batches"):
            model(rows)
    return tuple(_gain(place, weights[place], torch.cat(squares[place])) for place in places)


def measurement() -> Measurement:
    """:func:`gains` for :func:`interp.checkpoints.sweep`.

    Example:
        >>> import interp
        >>> interp.gains.measurement().name
        'gains'
    """
    words = {
        "sigma1": "Top singular value",
        "sigma2": "Second singular value",
        "stable_rank": "Stable rank",
        "gain": "Gain on text",
    }
    titles = {f"{figure}_{name}": f"{text}: {name}" for figure, text in words.items() for name in MATRICES}
    return Measurement(
        name="gains", code=CODE, run=lambda model, tokens: _quantities(gains(model, tokens)), titles=titles
    )


def _quantities(found: tuple[MatrixGain, ...]) -> dict[str, Quantity]:
    quantities = {}
    for name in dict.fromkeys(each.matrix for each in found):
        of_kind = {str(each.layer): each for each in found if each.matrix == name}
        for figure in ("sigma1", "sigma2", "stable_rank", "gain"):
            quantities[f"{figure}_{name}"] = quantity({k: getattr(each, figure) for k, each in of_kind.items()})
    return quantities


def _weight(module: nn.Module) -> Float[Tensor, "outputs inputs"]:
    inner = unwrapped(module)
    weight = inner.get_parameter("weight").detach()
    return weight.T if isinstance(inner, Conv1D) else weight


def _gain(
    place: tuple[int, str], weight: Float[Tensor, "outputs inputs"], squares: Float[Tensor, "n two"]
) -> MatrixGain:
    ratio = metrics.ratio(squares[:, 0], squares[:, 1])
    root = math.sqrt(ratio.value)
    values = top_singular_values(weight, k=min(2, *weight.shape))
    first, second = float(values[0]), float(values[-1])
    return MatrixGain(
        layer=place[0],
        matrix=place[1],
        shape=(weight.shape[0], weight.shape[1]),
        sigma1=first,
        sigma2=second,
        stable_rank=float(weight.double().square().sum()) / first**2 if first else 0.0,
        gain=Estimate(root, ratio.standard_error / (2 * root) if root else math.nan, ratio.n),
    )
