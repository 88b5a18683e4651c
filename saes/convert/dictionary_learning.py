"""dictionary_learning: ``config.json`` and ``ae.pt``, a pickled state dict that is read with ``weights_only=True``."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files import atomic_path, write_json
from saes.activations import Activation, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from saes.convert.weights import build, read_json, read_pickled_tensors, state
from saes.sae import SAE

_WEIGHTS, _CONFIG = "ae.pt", "config.json"
_CLASSES = {
    "relu": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "batchtopk": "BatchTopKSAE",
    "gated": "GatedAutoEncoder",
    "jumprelu": "JumpReluAutoEncoder",
    "matryoshka": "MatryoshkaBatchTopKSAE",
}
# Theirs -> ours; matrices of torch.nn.Linear are transposed.
_LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
_BIASES = {
    "bias": "b_dec",
    "decoder_bias": "b_dec",
    "encoder.bias": "b_enc",
    "gate_bias": "b_enc",
    "mag_bias": "b_mag",
}


def recognises(folder: Path) -> bool:
    """Whether one of its autoencoders is there."""
    return (folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()


def read(folder: Path) -> SAE:
    """Any class but ``AutoEncoderNew``."""
    config = read_json(folder / _CONFIG)["trainer"]
    kinds = {name: kind for kind, name in _CLASSES.items()}
    if config["dict_class"] not in kinds:
        raise ValueError(f"{folder}: {config['dict_class']} has no counterpart here; there are {', '.join(kinds)}")
    kind = kinds[config["dict_class"]]
    found: dict[str, Any] = read_pickled_tensors(folder / _WEIGHTS)
    weights: dict[str, Tensor] = {}
    for name, value in found.items():
        if name in _LINEAR:
            weights[_LINEAR[name]] = value.T.contiguous()
        elif name not in ("k", "group_sizes"):
            weights[_BIASES.get(name, name)] = value
    layer, module = config.get("layer"), config.get("submodule_name")
    return build(
        _activation(kind, found, config),
        weights,
        where=folder,
        subtract_b_dec=kind != "jumprelu",
        site=f"blocks.{layer}.hook_resid_post" if isinstance(layer, int) and module is None else module,
        provenance={"imported": {"format": "dictionary_learning", "config": config}},
    )


def _activation(kind: str, found: dict[str, Any], config: dict[str, Any]) -> Activation:
    k = int(found.get("k", config.get("k")) or 0)
    if kind == "matryoshka":
        sizes = [int(size) for size in found["group_sizes"]]
        ends = [sum(sizes[: i + 1]) / sum(sizes) for i in range(len(sizes))]
        return Matryoshka(k, shares=tuple(ends))
    simple: dict[str, Activation] = {"relu": ReLU(), "gated": Gated(), "jumprelu": JumpReLU()}
    if kind in simple:
        return simple[kind]
    return TopK(k) if kind == "topk" else BatchTopK(k)


def write(sae: SAE, folder: Path) -> None:
    """Write for dictionary_learning, whose own loader wants this pickled state dict.

    Raises:
        ValueError: top-AFA, transcoders, and a JumpReLU that subtracts b_dec (theirs does not) or the reverse.
    """
    kind = sae.activation.name
    if kind not in _CLASSES or sae.skip or sae.d_out != sae.d_in:
        raise ValueError(
            f"dictionary_learning cannot hold this {kind} SAE; it has {', '.join(_CLASSES)}, no transcoders"
        )
    weights = state(sae)
    if kind == "jumprelu" and sae.subtract_b_dec:
        # (x - b_dec) @ W_enc + b_enc = x @ W_enc + (b_enc - b_dec @ W_enc)
        weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
    elif kind != "jumprelu" and not sae.subtract_b_dec:
        raise ValueError(f"dictionary_learning's {_CLASSES[kind]} subtracts b_dec from its input; this SAE does not")
    with atomic_path(folder / _WEIGHTS) as partial:
        torch.save(_renamed(kind, weights, sae), partial)
    trainer = {
        "dict_class": _CLASSES[kind],
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "k": getattr(sae.activation, "k", None),
        "lm_name": sae.provenance.get("source", {}).get("model"),
        "submodule_name": sae.site,
    }
    write_json(folder / _CONFIG, {"trainer": trainer, "buffer": {}})


def _renamed(kind: str, weights: dict[str, Tensor], sae: SAE) -> dict[str, Tensor]:
    k = torch.tensor(getattr(sae.activation, "k", 0))
    if kind == "jumprelu":
        return weights
    if kind == "matryoshka":
        ends = sae.activation.prefixes(sae.d_sae)
        sizes = torch.tensor([end - begin for begin, end in zip((0, *ends[:-1]), ends, strict=True)])
        return weights | {"k": k, "group_sizes": sizes}
    linear = {"encoder.weight": weights["W_enc"].T.contiguous(), "decoder.weight": weights["W_dec"].T.contiguous()}
    if kind == "gated":
        named = {"decoder_bias": "b_dec", "gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag"}
        return linear | {theirs: weights[ours] for theirs, ours in named.items()}
    if kind == "relu":
        return linear | {"bias": weights["b_dec"], "encoder.bias": weights["b_enc"]}
    threshold = weights.get("threshold", torch.tensor(-1.0))
    return linear | {"b_dec": weights["b_dec"], "encoder.bias": weights["b_enc"], "k": k, "threshold": threshold}
