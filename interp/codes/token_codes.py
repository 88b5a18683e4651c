"""Codes of a language model: for every token the signs of the neurons of its MLPs."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from interp import metrics
from interp.checkpoints.curves import Measurement, Quantity, quantity
from interp.codes.packed_codes import class_distances, pack, redundancy
from interp.models.plain import require_tested_family
from interp.models.source import require_raw_weights
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@dataclass(frozen=True, kw_only=True)
class TokenCodes:
    """Codes of the tokens whose prefix no other token has; a causal model gives equal prefixes equal codes.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.codes.codes(model, torch.arange(1, 33).view(2, 16), layers=[0])
        >>> found.activation, found.neurons[0]
        ('gelu', 384)
    """

    layers: dict[int, UInt8[np.ndarray, "n bytes"]]
    """Layer -> its neurons' bits."""
    neurons: dict[int, int]
    """Layer -> how many of the bits are neurons."""
    sequence: Int[Tensor, " n"]
    """Row of the text that each token stands in."""
    position: Int[Tensor, " n"]
    """Position of each token in its row."""
    tokens: Int[Tensor, " n"]
    """Id of each token, in the tokenizer's vocabulary."""
    repeated: int
    """Tokens that were left out."""
    activation: str
    """The function behind the signs, such as ``relu`` or ``gelu``."""

    __repr__ = short_repr

    @property
    def all_layers(self) -> UInt8[np.ndarray, "n bytes"]:
        """Codes of the layers end to end."""
        return np.concatenate(list(self.layers.values()), axis=1)

    @property
    def regions(self) -> bool:
        """Whether inputs of one code lie in one linear region of the MLPs: their neurons are ReLUs."""
        return self.activation == "relu"


@torch.no_grad()
def codes(
    model: Any, tokens: Int[Tensor, "sequences position"], *, layers: Sequence[int] | None = None, batch: int = 4
) -> TokenCodes:
    """The sign of what enters the activation function, for every neuron and every token with a prefix of its own.

    In a gated MLP that is the gate's. Bits are packed as they come, an eighth of a byte each.

    Args:
        model: from ``load_model``.
        tokens: rows of one length without padding.
        layers: by default all.
        batch: sequences a forward pass.

    Raises:
        ValueError: processed weights; a layer that is not there; a family in which no test compared signs; no token.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> found = interp.codes.codes(model, torch.tensor([[1, 2, 3], [1, 2, 4]]))
        >>> len(found.tokens), found.repeated, found.layers[0].shape
        (4, 2, (4, 48))
    """
    require_raw_weights(model, purpose="take codes")
    require_tested_family(model, "neural codes")
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"tokens have shape {list(tokens.shape)}; give [sequences, position], one or more of each")
    chosen = list(range(len(model.blocks))) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(model.blocks):
        raise ValueError(f"layers {chosen} are not all in the model, which has 0 to {len(model.blocks) - 1}")
    ids = tokens.cpu()
    kept = _first_of_their_prefix(ids)
    parts: dict[int, list[np.ndarray]] = {layer: [] for layer in chosen}
    widths: dict[int, int] = {}
    for start in counted(range(0, len(ids), batch), "take codes", unit="batches"):
        mask = kept[start : start + batch].flatten()

        def keep(layer: int, output: Tensor, mask: Tensor = mask) -> None:
            widths[layer] = output.shape[-1]
            parts[layer].append(pack(output.flatten(0, -2)[mask.to(output.device)].float()))

        with ExitStack() as hooks:
            for layer in chosen:
                modules = model.blocks[layer].mlp._modules
                module: nn.Module = modules.get("gate") or modules["in"]
                hooks.callback(module.register_forward_hook(lambda _m, _a, out, layer=layer: keep(layer, out)).remove)
            model(ids[start : start + batch])
    sequence, position = kept.nonzero().unbind(1)
    config = model.original_model.config
    name = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    return TokenCodes(
        layers={layer: np.concatenate(each) for layer, each in parts.items()},
        neurons=widths,
        sequence=sequence,
        position=position,
        tokens=ids[kept],
        repeated=int((~kept).sum()),
        activation=str(name or getattr(config, "activation_function", "unknown")),
    )


def measurement() -> Measurement:
    """Redundancy, active neurons and distances of codes by block, for :func:`interp.checkpoints.sweep`.

    Example:
        >>> import interp
        >>> interp.codes.measurement().name
        'codes'
    """

    def run(model: Any, tokens: Int[Tensor, "sequences position"]) -> dict[str, Quantity]:
        found = codes(model, tokens)
        per_layer = {str(layer): each for layer, each in found.layers.items()}
        active = {}
        for layer, each in found.layers.items():
            share = np.unpackbits(each, axis=1).sum(1) / found.neurons[layer]
            active[str(layer)] = metrics.mean(torch.from_numpy(share).float(), groups=found.sequence)
        distances = {
            str(layer): class_distances(each, found.tokens, neurons=found.neurons[layer])
            for layer, each in found.layers.items()
        }
        everything = {**per_layer, "all": found.all_layers}
        return {
            "redundancy": quantity({k: redundancy(each, groups=found.sequence) for k, each in everything.items()}),
            "active": quantity(active),
            "distance_same_token": quantity({name: each.within for name, each in distances.items()}),
            "distance_other_token": quantity({name: each.between for name, each in distances.items()}),
        }

    titles = {
        "redundancy": "Share of tokens whose code another token has",
        "active": "Share of neurons with a positive input",
        "distance_same_token": "Share of bits in which two places of one token differ",
        "distance_other_token": "Share of bits in which two tokens differ",
    }
    return Measurement(name="codes", code=CODE, run=run, titles=titles)


def _first_of_their_prefix(ids: Int[Tensor, "sequences position"]) -> Tensor:
    """[sequences, position], False where an earlier row has the same tokens up to here."""
    kept = torch.ones_like(ids, dtype=torch.bool)
    seen: set[tuple[int, int]] = set()
    names: dict[tuple[int, int], int] = {}  # (prefix, next token) -> the prefix with it
    for row, line in enumerate(ids.tolist()):
        prefix = -1
        for position, token in enumerate(line):
            step = (prefix, token)
            kept[row, position] = step not in seen
            seen.add(step)
            prefix = names.setdefault(step, len(names))
    return kept
