"""Files of other tools written by hand, with what the tool's own loader computes from them, and tiny models to measure
them on.

Each :class:`Layout` says, beside its files, between which tensors of the Hugging Face model its dictionary lies: what
``interp eval`` prints is compared with a fraction of variance unexplained that knows nothing of sites.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_models import LAYERS, VOCAB, WIDTH, tiny_model

Weights = dict[str, Tensor]
Computed = tuple[Tensor, Tensor]
"""Dense latents, and the output."""
LAYER, K = 1, 40
ROWS, CONTEXT = 24, 16
MODELS = {
    "pythia-70m": "gpt_neox",
    "gpt2": "gpt2",
    "Llama-3.1-8B": "llama",
    "Llama-3.1-8B-Instruct": "llama",
    "DeepSeek-R1-Distill-Llama-8B": "llama",
    "Qwen3-1.7B-Base": "llama",
    "Qwen3-4B": "llama",
    "gemma-2-2b": "gemma2",
    "gemma-3-1b-pt": "gemma3",
    "gemma-3-1b-it": "gemma3",
}
"""Name that the dictionaries' files say -> family of the tiny model of that name."""


def token_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(1, VOCAB, size=(ROWS, CONTEXT)).astype(np.uint16)


@cache
def plain_model(name: str) -> Any:
    return tiny_model(MODELS[name])


def saved_model(name: str, folder: Path) -> Path:
    """The tiny model in a folder of its name, without a tokenizer."""
    place = folder / "models" / name
    plain_model(name).save_pretrained(place)
    return place


@cache
def activations(name: str) -> dict[str, Tensor]:
    """``layers.1.mlp.input`` and so on -> [row, position, d] of the token ids, from hooks on the plain modules."""
    model, found = plain_model(name), {}
    root = next(module for module in model.modules() if hasattr(module, "layers") or hasattr(module, "h"))
    handles = []
    for path, module in root.named_modules():

        def keep(module: Any, arguments: Any, options: Any, output: Any, path: str = path) -> None:
            entering = arguments[0] if arguments else options.get("hidden_states")
            leaving = output[0] if isinstance(output, tuple) else output
            for side, value in (("input", entering), ("output", leaving)):
                if isinstance(value, Tensor):
                    found[f"{path}.{side}"] = value.detach()

        handles.append(module.register_forward_hook(keep, with_kwargs=True))
    with torch.no_grad():
        model(torch.from_numpy(token_ids().astype(np.int64)))
    for handle in handles:
        handle.remove()
    for layer in range(LAYERS):  # what Gemma's norm divides, before the gain
        if f"layers.{layer}.pre_feedforward_layernorm.output" in found:
            x = found[f"layers.{layer}.pre_feedforward_layernorm.input"].float()
            found[f"layers.{layer}.normalised"] = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return found


def explaining(x: Tensor, y: Tensor) -> Weights:
    """Weights that bring ``x`` to most of ``y``: positive and negative parts of the input, turned, and
    the affine map that is nearest."""
    generator = torch.Generator().manual_seed(3)
    flat, target = x.flatten(0, 1).double(), y.flatten(0, 1).double()
    size, fits_bias = float(flat.std()), not torch.equal(flat, target)
    turn = torch.linalg.qr(torch.randn(flat.shape[1], flat.shape[1], generator=generator, dtype=torch.float64)).Q
    with_ones = torch.cat([flat @ turn, torch.ones(len(flat), 1, dtype=torch.float64)], 1)
    solution, intercept = (torch.linalg.pinv(with_ones, rtol=1e-3) @ target).split([flat.shape[1], 1])
    spread = float((target - target.mean(0)).std())

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.02

    W_enc, W_dec = torch.cat([turn, -turn], 1), torch.cat([solution, -solution], 0)
    weights = {
        "W_enc": W_enc + noise(*W_enc.shape),
        "W_dec": W_dec + noise(*W_dec.shape) * spread / size,
        "b_enc": noise(W_enc.shape[1]) * size,
        "b_dec": (intercept[0] if fits_bias else 0) + noise(target.shape[1]) * spread,
        "threshold": noise(W_enc.shape[1]).abs() * 5 * size,
    }
    return {name: value.float().contiguous() for name, value in weights.items()}


def relu(w: Weights, x: Tensor, *, centred: bool = False) -> Computed:
    latents = ((x - w["b_dec"] if centred else x) @ w["W_enc"] + w["b_enc"]).relu()
    return latents, latents @ w["W_dec"] + w["b_dec"]


def jumprelu(w: Weights, x: Tensor, *, centred: bool = False) -> Computed:
    pre = (x - w["b_dec"] if centred else x) @ w["W_enc"] + w["b_enc"]
    latents = pre.relu() * (pre > w["threshold"])
    return latents, latents @ w["W_dec"] + w["b_dec"]


def topk(w: Weights, x: Tensor, *, centred: bool = False, k: int = K) -> Computed:
    pre = ((x - w["b_dec"] if centred else x) @ w["W_enc"] + w["b_enc"]).relu()
    values, indices = pre.topk(k, dim=-1)
    latents = torch.zeros_like(pre).scatter(-1, indices, values)
    return latents, latents @ w["W_dec"] + w["b_dec"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Files of one kind, and what is true of them."""

    model: str
    reads: str
    """Tensor of the plain model, as in :func:`activations`."""
    writes: str | None = None
    """The same, for a transcoder."""
    head: slice | None = None
    """The part of the tensor that one head writes."""
    site: str
    target_site: str | None = None
    write: Callable[[Path, Weights], Path]
    """Puts the files below a folder; what ``SAE.load`` is given comes back."""
    compute: Callable[[Weights, Tensor], Computed]
    """What the tool's own loader makes of them."""
    scale: float = 1.0
    """Of the inputs that the weights are made for."""
    options: tuple[str, ...] = ()
    """Of ``interp eval`` that these files need."""
    target_scale: float | None = None
    """Of the outputs, where that is another."""
    latents_times_norms: bool = False
    """Ours are theirs times the norms of their decoder rows, by which theirs are selected."""

    def between(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        found = activations(self.model)
        x, y = found[self.reads], found[self.writes or self.reads]
        return (x, y) if self.head is None else (x[..., self.head], y[..., self.head])

    def weights(self) -> Weights:
        x, y = self.between()
        target_scale = self.scale if self.target_scale is None else self.target_scale
        return explaining(x * self.scale, x * self.scale if y is x else y * target_scale)

    def fvu(self) -> float:
        """Of all tokens, from the tool's own arithmetic and the plain model's tensors."""
        x, y = self.between()
        with torch.no_grad():
            output = self.compute(self.weights(), x)[1]
        flat = y.flatten(0, 1)
        return float((y - output).square().sum() / (flat - flat.mean(0)).square().sum())


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_tensors(path: Path, tensors: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def save_pickle(path: Path, tensors: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(tensors), path)


def only(w: Weights, *names: str) -> Weights:
    return {name: w[name] for name in names or ("W_enc", "W_dec", "b_enc", "b_dec")}


assert WIDTH % 4 == 0
