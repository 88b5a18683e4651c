"""Llama Scope (``hyperparams.json``), its R1 variant, and Llamascopium's SAEs and transcoders (``config.json``).

All were trained on activations times a constant, the root of the width over their mean norm, which is folded into the
weights: latents stay those of the tools' loaders.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files.outside import read_json
from saes.activations import Activation, JumpReLU, ReLU, TopK
from saes.convert.record import Record, imported
from saes.convert.scale import checked_factor
from saes.convert.site_names import of_hook
from saes.convert.weights import read_safetensors, text, whole_number
from saes.published.releases import of_files

_FIRST, _LATER = "hyperparams.json", "config.json"
WEIGHTS = ("sae_weights.safetensors", "checkpoints/pruned.safetensors", "checkpoints/final.safetensors")
LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"
NORM = "dataset_average_activation_norm."
_LLAMA = "meta-llama/Llama-3.1-8B"


def recognises(folder: Path) -> bool:
    """Whether one of them is there."""
    if not any((folder / name).is_file() for name in WEIGHTS) or (folder / "cfg.json").exists():
        return False
    return any((folder / name).is_file() for name in (_FIRST, _LATER))


def read(folder: Path) -> Record:
    """Whichever of the three it is."""
    weights = read_safetensors(next(folder / name for name in WEIGHTS if (folder / name).is_file()))
    if (folder / _FIRST).is_file():
        return _first(weights, read_json(folder / _FIRST), folder)
    config = read_json(folder / _LATER)
    if "log_jumprelu_threshold" in weights:
        return _r1(weights, config, folder)
    return _llamascopium(weights, config, folder)


def _first(found: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Record:
    """JumpReLU with one threshold for all latents, which is said in units of the raw activations."""
    factor = _factor(config.get("dataset_average_activation_norm", {}).get("in"), config["d_model"], folder)
    threshold = config["jump_relu_threshold"]
    if type(threshold) not in (int, float) or not 0 <= threshold < math.inf:
        raise ValueError(f"{folder}: jump_relu_threshold is {threshold!r}; it must be a number of 0 or more")
    weights = _renamed(found)
    weights["threshold"] = torch.full((len(weights["b_enc"]),), threshold * factor)
    return Record(
        activation=JumpReLU(),
        weights=weights,
        scales=(factor, factor),
        where=folder,
        subtract_b_dec=False,
        **_place(config, folder, model=_LLAMA),
    )


def _r1(found: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Record:
    """JumpReLU with a threshold each, of the scaled activations."""
    norms = mean_norms(found)
    said = config.get("dataset_average_activation_norm")
    given = said.get("in") if isinstance(said, dict) else None
    given = norms.get("in", norms.get(config.get("hook_point_in", ""), given))
    published = of_files(folder)
    known = None if published is None or given is not None else published.factor
    factor = _factor(given, config["d_model"], folder) if known is None else checked_factor(known, where=folder)
    weights = _renamed(found)
    weights["threshold"] = found["log_jumprelu_threshold"].float().exp()
    return Record(
        activation=JumpReLU(),
        weights=weights,
        scales=(factor, factor),
        where=folder,
        subtract_b_dec=False,
        **_place(config, folder, model=_LLAMA),
    )


def _llamascopium(found: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Record:
    """An SAE or a transcoder.

    Which latents are active is decided on pre-activations times the norms of decoder rows, where the configuration says
    so: thresholds are divided by them; of TopK latents the norms become a part, and their decoder rows get norm 1.
    """
    if (kind := config.get("sae_type")) != "sae":
        if kind in ("clt", "crosscoder"):
            raise ValueError(f"{folder}: a {kind} reads or writes at several places; load it with saes.places.load_any")
        reason = "is not a function of one activation" if kind in ("lorsa", "molt") else "is new"
        raise ValueError(f"{folder}: a {kind!r} of Llamascopium {reason}: it has no counterpart here")
    if config.get("use_glu_encoder"):
        raise ValueError(f"{folder}: its encoder is gated (use_glu_encoder), which has no counterpart here")
    site, target = text(config.get("hook_point_in")), text(config.get("hook_point_out"))
    norms_said = mean_norms(found)
    factors = [factor_at(hook, norms_said, config, folder) for hook in (site, target or site)]
    weights = {ours: found.pop(theirs) for theirs, ours in _NAMES.items() if theirs in found}
    if not config.get("use_decoder_bias", True):
        weights["b_dec"] = torch.zeros(weights["W_dec"].shape[1], dtype=weights["W_dec"].dtype)
    gated_by_norms = bool(config.get("sparsity_include_decoder_norm", True))
    norms = weights["W_dec"].float().norm(dim=-1) if gated_by_norms else torch.ones(len(weights["b_enc"]))
    activation = activation_of(config, folder)
    if isinstance(activation, JumpReLU):
        weights["threshold"] = found.pop(LOG_THRESHOLD).float().exp() / norms
    elif isinstance(activation, TopK) and not torch.allclose(norms, torch.ones_like(norms), atol=1e-6):
        kept = norms.to(weights["W_dec"].dtype)
        scaled = {"W_enc": weights["W_enc"] * kept, "b_enc": weights["b_enc"] * kept}
        weights |= scaled | {"W_dec": weights["W_dec"] / kept[:, None]}
    return Record(
        activation=activation,
        weights=weights | found,  # what is left there is used by no rule, which is told
        scales=(factors[0], factors[1]),
        where=folder,
        subtract_b_dec=False,
        **_place(config, folder, model=text(config.get("model_name"))),
    )


_NAMES = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec"}


def activation_of(config: dict[str, Any], folder: Path) -> Activation:
    """Of any of Llamascopium's dictionaries.

    Raises ValueError for what makes a latent depend on more than its own layer's activation.
    """
    name = str(config.get("act_fn", "relu")).lower()
    if name == "topk":
        return TopK(whole_number(config.get("top_k"), name="top_k", where=folder))
    simple: dict[str, Activation] = {"relu": ReLU(), "jumprelu": JumpReLU()}
    if name not in simple:
        of_batches = "outside training a latent would depend on the rest of its batch"
        reasons = {"batchtopk": of_batches, "batchlayertopk": of_batches}
        reasons["layertopk"] = "a latent would depend on those of other layers"
        reason = f": {reasons[name]}" if name in reasons else ""
        raise ValueError(f"{folder}: act_fn {name!r} has no counterpart here{reason}")
    return simple[name]


def mean_norms(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean norms of activations by hook, taken out of the tensors of a file."""
    return {name.removeprefix(NORM): found.pop(name) for name in list(found) if name.startswith(NORM)}


def factor_at(hook: str | None, norms: dict[str, Tensor], config: dict[str, Any], folder: Path) -> float:
    """What activations at a hook were multiplied by."""
    how = config.get("norm_activation", "dataset-wise")
    if how == "inference":
        return 1.0
    if how != "dataset-wise":
        raise ValueError(f"{folder}: norm_activation is {how!r}: each activation or batch is scaled by its own norm")
    return _factor(norms.get(str(hook)), config["d_model"], folder)


def _factor(norm: Any, d_model: Any, folder: Path) -> float:
    """The root of the width over the mean norm of the activations."""
    if isinstance(norm, Tensor) and norm.numel() == 1:
        norm = float(norm)
    if type(norm) not in (int, float) or not 0 < norm < math.inf:
        raise ValueError(
            f"{folder}: it takes activations times a constant, for which the mean norm of its training is needed"
            f" (dataset_average_activation_norm), and that is {norm!r} in its files"
        )
    return float(math.sqrt(whole_number(d_model, name="d_model", where=folder)) / norm)


def _renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    known = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc", "decoder.bias": "b_dec"}
    rest = {name: value for name, value in found.items() if name not in known and name != "log_jumprelu_threshold"}
    return rest | {ours: found[name].T if "weight" in name else found[name] for name, ours in known.items()}


def _place(config: dict[str, Any], folder: Path, *, model: str | None) -> dict[str, Any]:
    """Sites and provenance."""
    site, target = of_hook(config.get("hook_point_in")), of_hook(config.get("hook_point_out"))
    transcoder = config.get("hook_point_out") not in (None, config.get("hook_point_in"))
    facts = {"config": config, "model": model, "transcoder": transcoder, "text": {"context": 1024, "bos": "row"}}
    if site is None or (transcoder and target is None):
        facts["place"] = f"its hook_point_in is {config.get('hook_point_in')!r}"
    if model != _LLAMA:
        del facts["text"]
    return {
        "site": site,
        "target_site": target if transcoder else None,
        "provenance": imported("llama_scope", **facts),
    }
