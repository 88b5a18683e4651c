"""Other rules for which neurons to drop, at the same cost in perplexity as CETT (Sparsing Law, arXiv 2411.02335).

``topk`` keeps, for each token, as many neurons in every layer: those of largest magnitude. ``fat`` keeps those whose
magnitude is above one threshold for all layers. Magnitudes are of the product that enters the last projection, or of
the activated gate alone; in an MLP without a gate these are the same. Published code takes the gate, and for Top-k the
largest of all tokens together, so that there a token may keep none; here every token keeps k.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.activations import ACT2FN

from interp import metrics
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.models.feed_forward import output_weights
from interp.models.loading import require_raw_weights
from interp.sites.site import layer_count
from interp.sparsity.mlp_edits import Edit, edited, mean_loss

Rule = Literal["topk", "fat"]
Scored = Literal["product", "gate"]
_STEPS = 30
_FINEST = -24.0
"""Octaves below the largest magnitude: thresholds below that are taken for 0."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Neurons that one rule keeps where it raises perplexity as far as asked, or less."""

    rule: Rule
    """Name of the rule: topk or fat."""
    scored: Scored
    """Whose magnitude decides: product or gate."""
    level: float
    """k of topk, neurons a token and layer; the threshold of fat, in the unit of what it compares."""
    active: Estimate
    """Share of neurons that are kept and not zero, over layers and tokens; ± over sequences. The activation ratio."""
    layers: tuple[Estimate, ...]
    """The same share in each layer."""
    perplexity_ratio: float
    """With the others at zero, over that of the whole model."""


def kept_at_perplexity(
    model: Model,
    tokens: Int[Tensor, "sequences position"],
    *,
    rule: Rule,
    p: float = 1.0,
    scored: Scored = "product",
) -> Kept:
    """The fewest neurons that ``rule`` can keep while perplexity rises by no more than ``p`` percent.

    Found by halving: k to the last neuron, the threshold until the perplexity ratio is within 1e-4. The text is read
    once for each look, ten to forty times.

    Raises:
        ValueError: processed weights; a p that is not positive; another rule; gates in a model whose MLPs do not keep
            them in a module of their own.

    Example:
        >>> import interp
        >>> from interp.sparsity import kept_at_perplexity
        >>> from interp.tokens.sequences import text_rows
        >>> model = interp.load_model("embedded")
        >>> tokens, _ = text_rows(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", sequences=2, context=32)
        >>> found = kept_at_perplexity(model, tokens, rule="topk", p=5.0)
        >>> 1 < found.level < 384, found.perplexity_ratio <= 1.05
        (True, True)
    """
    require_raw_weights(model, purpose="measure activation sparsity")
    if not p > 0:
        raise ValueError(f"p={p} must be a positive percentage, such as 1")
    if rule not in ("topk", "fat"):
        raise ValueError(f"rule={rule!r} is neither topk nor fat")
    if scored not in ("product", "gate"):
        raise ValueError(f"scored={scored!r} is neither product nor gate")
    looks = _Looks(model, tokens, scored)
    most = 1 + p / 100
    if rule == "topk":
        low, high = 0, output_weights(model, 0).shape[1]  # k that is too few, and one that is enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if looks.ratio(_largest(middle)) <= most else (middle, high)
        return looks.at(_largest(high), rule, float(high))
    threshold = _threshold(lambda octave: looks.ratio(_above(looks.largest * 2.0**octave)), most) * looks.largest
    return looks.at(_above(threshold), rule, threshold)


def _threshold(ratio: Callable[[float], float], most: float) -> float:
    """The largest share of the largest magnitude whose ``ratio``, asked by its logarithm to base 2, is ``most`` or
    less, to 1e-4 of the ratio; 0 where the finest costs more."""
    if ratio(0.0) <= most:
        return 1.0
    low, high = _FINEST, 0.0
    if ratio(low) > most:
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = ratio(middle)
        low, high = (middle, high) if found <= most else (low, middle)
        if 0 <= most - found < 1e-4:
            break
    return 2.0**low


Mask = Callable[[Float[Tensor, "*tokens d_mlp"]], Float[Tensor, "*tokens d_mlp"]]


def _largest(k: int) -> Mask:
    """Of each token, the ``k`` scores of largest magnitude; of equal ones the first."""

    def kept(scores: Tensor) -> Tensor:
        order = scores.abs().argsort(dim=-1, descending=True, stable=True)[..., :k]
        return torch.zeros_like(scores).scatter(-1, order, 1)

    return kept


def _above(threshold: float) -> Mask:
    return lambda scores: (scores.abs() > threshold).to(scores.dtype)


class _Looks:
    """The model with neurons left out, and what that does to its loss."""

    def __init__(self, model: Model, tokens: Tensor, scored: Scored) -> None:
        self._model, self._tokens, self._layers = model, tokens, layer_count(model)
        self._gates = scored == "gate" and "gate" in model.blocks[0].mlp._modules
        self._scored: Scored = scored
        if scored == "gate" and not self._gates and getattr(model.cfg, "gated_mlp", False):
            raise ValueError("the gate and what it multiplies are one module in this model: take scored='product'")
        self.largest = 0.0

        def look(_layer: int, scores: Tensor, a: Tensor) -> Tensor:
            self.largest = max(self.largest, float(scores.abs().max()))
            return a

        with self._seen(look):
            self._loss = mean_loss(model, tokens)

    def ratio(self, mask: Mask) -> float:
        """Perplexity with what ``mask`` does not keep at zero, over that of the whole model."""
        with self._seen(lambda _layer, scores, a: a * mask(scores)):
            return float(np.exp(mean_loss(self._model, self._tokens) - self._loss))

    def at(self, mask: Mask, rule: Rule, level: float) -> Kept:
        """All that is known of one level."""
        shares: list[list[Tensor]] = [[] for _ in range(self._layers)]

        def look(layer: int, scores: Tensor, a: Tensor) -> Tensor:
            left = a * mask(scores)
            shares[layer].append((left != 0).double().mean().cpu())
            return left

        with self._seen(look):
            loss = mean_loss(self._model, self._tokens)
        by_sequence = [torch.stack(layer) for layer in shares]
        return Kept(
            rule=rule,
            scored=self._scored,
            level=level,
            active=metrics.mean(torch.stack(by_sequence).mean(0)),
            layers=tuple(map(metrics.mean, by_sequence)),
            perplexity_ratio=float(np.exp(loss - self._loss)),
        )

    @contextmanager
    def _seen(self, look: Callable[[int, Tensor, Tensor], Tensor]) -> Iterator[None]:
        """``look`` gets layer, scores and what enters the last projection, and gives what enters it instead."""
        gates: dict[int, Tensor] = {}

        def edit(layer: int) -> Edit:
            return lambda a: look(layer, gates.pop(layer) if self._gates else a, a)

        with ExitStack() as stack:
            if self._gates:
                config = self._model.original_model.config
                activation = ACT2FN[getattr(config, "hidden_activation", None) or config.hidden_act]
                for layer in range(self._layers):

                    def keep(_module: Any, _args: Any, output: Tensor, layer: int = layer) -> None:
                        gates[layer] = activation(output)

                    module = self._model.blocks[layer].mlp._modules["gate"]
                    stack.callback(module.register_forward_hook(keep).remove)
            stack.enter_context(edited(self._model, [edit(layer) for layer in range(self._layers)]))
            yield
