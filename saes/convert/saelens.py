"""SAELens 6: ``cfg.json`` and ``sae_weights.safetensors``, which Neuronpedia loads too."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from interp.files import atomic_path, write_json
from saes.activations import Activation, Gated, JumpReLU, ReLU, TopK
from saes.convert.weights import build, read_json, read_safetensors, state
from saes.sae import SAE

_WEIGHTS, _CONFIG = "sae_weights.safetensors", "cfg.json"
_TRANSCODERS = {"transcoder": "standard", "skip_transcoder": "standard", "jumprelu_transcoder": "jumprelu"}
_NAMES = {"b_gate": "b_enc"}


def recognises(folder: Path) -> bool:
    """Whether an SAELens SAE is there (ours has the same file names, and says ``format``)."""
    if not ((folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()):
        return False
    config = read_json(folder / _CONFIG)
    return "architecture" in config and "format" not in config


def read(folder: Path) -> SAE:
    """Standard, TopK, JumpReLU (also what BatchTopK and Matryoshka are saved as), Gated, and transcoders."""
    config = read_json(folder / _CONFIG)
    architecture = config["architecture"]
    kind = _TRANSCODERS.get(architecture, architecture)
    for name in ("normalize_activations", "reshape_activations"):
        if config.get(name, "none") not in ("none", None):
            raise ValueError(f"{folder}: {name} is {config[name]!r}; only SAEs of plain activations can be read")
    weights = {_NAMES.get(name, name): value for name, value in read_safetensors(folder / _WEIGHTS).items()}
    if config.get("rescale_acts_by_decoder_norm"):
        norms = weights["W_dec"].norm(dim=-1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    metadata: dict[str, Any] = config.get("metadata") or {}
    return build(
        _activation(kind, config, folder),
        weights,
        where=folder,
        subtract_b_dec=bool(config.get("apply_b_dec_to_input", True)) and architecture not in _TRANSCODERS,
        site=metadata.get("hook_name"),
        target_site=metadata.get("hook_name_out"),
        provenance={"imported": {"format": "saelens", "config": config}},
    )


def _activation(kind: str, config: dict[str, Any], folder: Path) -> Activation:
    if kind == "standard":
        return ReLU()
    if kind == "topk":
        return TopK(int(config["k"]))
    if kind == "jumprelu":
        return JumpReLU()
    if kind == "gated":
        return Gated()
    raise ValueError(f"{folder}: SAELens's architecture {kind!r} has no counterpart here")


def write(sae: SAE, folder: Path) -> None:
    """Write for SAELens. BatchTopK and Matryoshka become JumpReLU with their threshold, as its own trainer saves them.

    Raises:
        ValueError: top-AFA, which SAELens computes differently; skip connections.
    """
    name = sae.activation.name
    weights = state(sae)
    if name in ("batchtopk", "matryoshka"):
        weights["threshold"] = weights["threshold"].expand(sae.d_sae).contiguous()
    architecture = {"relu": "standard", "batchtopk": "jumprelu", "matryoshka": "jumprelu"}.get(name, name)
    transcoder = sae.target_site is not None or sae.skip
    if architecture not in ("standard", "topk", "jumprelu", "gated") or (transcoder and architecture != "standard"):
        raise ValueError(
            f"SAELens cannot hold {'a transcoder of ' if transcoder else ''}{name}: its own of that name computes"
            " something else, or it has none"
        )
    if architecture == "gated":
        weights["b_gate"] = weights.pop("b_enc")
    if transcoder:
        architecture = "skip_transcoder" if sae.skip else "transcoder"
    config = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "hook_name": sae.site,
            "hook_name_out": sae.target_site,
            "model_name": sae.provenance.get("source", {}).get("model"),
            "deepfield": sae.provenance,
        },
    }
    if architecture == "topk":
        config |= {"k": sae.activation.k, "rescale_acts_by_decoder_norm": False}  # type: ignore[attr-defined]
    if transcoder:
        config["d_out"] = sae.d_out
    weights = {key: value.to(torch.float32) if key == "threshold" else value for key, value in weights.items()}
    with atomic_path(folder / _WEIGHTS) as partial:
        save_file(weights, partial)
    write_json(folder / _CONFIG, config)
