"""circuit-tracer's transcoder sets and cross-layer transcoders: a folder of safetensors files and ``config.yaml``.

- A set has ``layer_{i}.safetensors``: W_enc [d_sae, d], W_dec [d_sae, d], b_enc, b_dec, and where the dictionary has
  them W_skip [d, d] and ``activation_function.threshold``.
- A CLT has ``W_enc_{i}.safetensors`` (W_enc_{i} [d_sae, d], b_enc_{i}, b_dec_{i}, threshold_{i}) and
  ``W_dec_{i}.safetensors`` (W_dec_{i} [d_sae, layers - i, d]), whose rows can be read alone.

Files are counted: one that is missing, or stands beside the others without being named, is an error. Their TopK keeps
negative values where fewer than k are above zero; ours never does.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from interp.files.outside import reading
from interp.files.tensor_files import write_tensors
from interp.files.writing import atomic_path
from saes.activations import Activation, JumpReLU, ReLU, TopK
from saes.convert.circuit_tracer import read_yaml, sites_of_layer, text_of
from saes.convert.record import imported
from saes.convert.weights import read_safetensors, text, whole_number
from saes.places.dictionary import Dictionary
from saes.places.layout import Layout
from saes.places.part import Part

CONFIG = "config.yaml"
_KINDS = {"transcoder_set": "transcoders", "cross_layer_transcoder": "clt"}
_THRESHOLD = "activation_function.threshold"


def read_circuit_tracer(folder: str | Path) -> Dictionary:
    """A set or CLT from a local folder.

    Raises:
        ValueError: no such folder, damaged files, files that do not fit together, or what no dictionary here computes.
    """
    place = Path(folder)
    with reading(place, "holds no circuit-tracer dictionary that can be read"):
        config = read_yaml(place / CONFIG)
        if (found := config.get("model_kind")) not in _KINDS:
            raise ValueError(f"model_kind of {CONFIG} is {found!r}; it must be one of {', '.join(_KINDS)}")
        if "transcoders" in config:
            raise ValueError(
                f"{CONFIG} names files elsewhere (transcoders: ...); fetch them as layer_0.safetensors, .."
            )
        kind = _KINDS[config["model_kind"]]
        layers = _layer_count(place, "layer" if kind == "transcoders" else "W_enc")
        if kind == "clt" and _layer_count(place, "W_dec") != layers:
            raise ValueError(f"there are {layers} files W_enc_*, but {_layer_count(place, 'W_dec')} files W_dec_*")
        weights = [_of_set(place, i) if kind == "transcoders" else _of_clt(place, i) for i in range(layers)]
        return _built(kind, config, weights)


def write_circuit_tracer(dictionary: Dictionary, folder: str | Path) -> None:
    """Write a transcoder set or CLT for circuit-tracer; the configuration comes last.

    Raises:
        ValueError: a crosscoder, an activation or skip connection that circuit-tracer cannot hold, or places that are
            not one kind of hook in consecutive layers from 0.
    """
    kind = {ours: theirs for theirs, ours in _KINDS.items()}.get(dictionary.layout.kind)
    if kind is None:
        raise ValueError(f"circuit-tracer holds transcoder sets and CLTs, not a {dictionary.layout.kind}")
    name, out = dictionary.activation.name, Path(folder)
    allowed = ("relu", "jumprelu", "topk") if kind == "transcoder_set" else ("relu", "jumprelu")
    if name not in allowed:
        raise ValueError(f"circuit-tracer's {kind} has {', '.join(allowed)}, not {name}")
    parts = [part for part, _ in dictionary.placed()]
    if kind == "cross_layer_transcoder" and parts[0].skip:
        raise ValueError("circuit-tracer's files of a CLT have no skip connection; this one has")
    config = {
        "model_name": dictionary.provenance.get("source", {}).get("model"),
        "model_kind": kind,
        "feature_input_hook": _hook(dictionary.layout.reads),
        "feature_output_hook": _hook(dictionary.layout.writes),
    }
    if name == "topk":
        config |= {"activation": "topk", "k": dictionary.activation.k}  # type: ignore[attr-defined]
    for number, part in enumerate(parts):
        w = {name: parameter.detach().cpu().contiguous() for name, parameter in part.named_parameters()}
        w["W_enc"] = w["W_enc"].T.contiguous()
        if kind == "transcoder_set":
            if "threshold" in w:
                w[_THRESHOLD] = w.pop("threshold")
            write_tensors(out / f"layer_{number}.safetensors", w)
        else:
            decoder = w.pop("W_dec").unflatten(1, (len(part.written_widths), -1))
            write_tensors(out / f"W_enc_{number}.safetensors", {f"{name}_{number}": t for name, t in w.items()})
            write_tensors(out / f"W_dec_{number}.safetensors", {f"W_dec_{number}": decoder})
    with atomic_path(out / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def decoder_rows(folder: str | Path, layer: int, latents: Int[Tensor, " n"]) -> Float[Tensor, "n places d"]:
    """Decoder rows of a few latents of one layer of a CLT, read from disk without the rest of the file.

    Raises:
        ValueError: no such layer, or latents that it does not have.
    """
    path = Path(folder) / f"W_dec_{layer}.safetensors"
    with reading(path), safe_open(path, framework="pt") as file:
        stored = file.get_slice(f"W_dec_{layer}")
        d_sae, places, d = stored.get_shape()
        if len(latents) and not 0 <= int(latents.min()) <= int(latents.max()) < d_sae:
            raise ValueError(f"latents run from {int(latents.min())} to {int(latents.max())}; there are {d_sae}")
        if not len(latents):
            return torch.empty(0, places, d)
        return torch.cat([stored[i : i + 1] for i in latents.tolist()])


def _layer_count(folder: Path, name: str) -> int:
    """How many files of a name there are; they must be numbered from 0 without a gap."""
    numbers = sorted(
        int(match[1])
        for file in folder.glob(f"{name}_*.safetensors")
        if (match := re.fullmatch(rf"{name}_(\d+)\.safetensors", file.name))
    )
    if not numbers:
        raise ValueError(f"there is no {name}_0.safetensors")
    if numbers != list(range(len(numbers))):
        missing = sorted(set(range(numbers[-1])) - set(numbers))
        raise ValueError(f"{name}_{missing[0]}.safetensors is missing: there are numbers up to {numbers[-1]}")
    return len(numbers)


def _of_set(folder: Path, number: int) -> dict[str, Tensor]:
    weights = read_safetensors(folder / f"layer_{number}.safetensors")
    if _THRESHOLD in weights:
        weights["threshold"] = weights.pop(_THRESHOLD)
    return weights


def _of_clt(folder: Path, number: int) -> dict[str, Tensor]:
    found = read_safetensors(folder / f"W_enc_{number}.safetensors")
    found |= read_safetensors(folder / f"W_dec_{number}.safetensors")
    weights = {name.removesuffix(f"_{number}"): tensor for name, tensor in found.items()}
    if weights["W_dec"].ndim != 3:
        raise ValueError(f"W_dec_{number} has shape {tuple(weights['W_dec'].shape)}, expected [d_sae, layers, d]")
    weights["W_dec"] = weights["W_dec"].flatten(1)
    return weights


@torch.no_grad()
def _built(kind: str, config: dict[str, Any], weights: Sequence[dict[str, Tensor]]) -> Dictionary:
    d_sae, d = weights[0]["W_enc"].shape
    skip = "W_skip" in weights[0]
    model = text(config.get("model_name"))
    sites = [sites_of_layer(layer, config, model) for layer in range(len(weights))]
    reads, writes = (tuple(site for site in side if site is not None) for side in zip(*sites, strict=True))
    if len(reads) < len(sites) or len(writes) < len(sites):
        hooks = (config.get("feature_input_hook"), config.get("feature_output_hook"))
        raise ValueError(f"{CONFIG} names the hooks {hooks[0]!r} and {hooks[1]!r}, which are no places here")
    d_out = len(weights[0]["b_dec"])
    with torch.device("meta"):  # memory only once every shape is known to be right
        dictionary = Dictionary(
            Layout(kind, reads, writes),
            ((d,) * len(weights), (d_out,) * len(weights)),
            d_sae=d_sae,
            activation=_activation(config, weights[0]),
            skip=skip,
            provenance=imported("circuit_tracer", config=config, model=model, text=text_of(model)),
            dtype=weights[0]["W_enc"].dtype,
        )
    for number, ((part, _), its) in enumerate(zip(dictionary.placed(), weights, strict=True)):
        _check(part, its, number)
    dictionary.to_empty(device="cpu")
    for (part, _), its in zip(dictionary.placed(), weights, strict=True):
        for name, parameter in part.named_parameters():
            parameter.copy_(its[name].T if name == "W_enc" else its[name])
    return dictionary


def _check(part: Part, weights: dict[str, Tensor], number: int) -> None:
    wanted = {name: tuple(p.shape[::-1] if name == "W_enc" else p.shape) for name, p in part.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != wanted:
        raise ValueError(f"layer {number} has {found}, expected {wanted}")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"layer {number}: {name} is not finite")
    if "threshold" in weights and bool((weights["threshold"] < 0).any()):
        raise ValueError(f"layer {number} has thresholds below 0, through which negative latents pass; ours have none")


def _activation(config: dict[str, Any], weights: dict[str, Tensor]) -> Activation:
    said = config.get("activation")
    if said == "topk":
        return TopK(whole_number(config.get("k"), name="k", where=Path(CONFIG)))
    if said not in (None, "relu", "jump_relu"):
        raise ValueError(f"activation of {CONFIG} is {said!r}; there are topk, relu and jump_relu")
    return JumpReLU() if "threshold" in weights else ReLU()


def _hook(places: Sequence[str]) -> str:
    """What all names share behind the layer's number."""
    parts = [re.fullmatch(r"blocks\.(\d+)\.(.+)", place) for place in places]
    if any(part is None or int(part[1]) != number for number, part in enumerate(parts)):
        raise ValueError(f"circuit-tracer has every layer from 0; these places are {', '.join(places)}")
    (hook, *others) = {part[2] for part in parts if part is not None}
    if others:
        raise ValueError(f"circuit-tracer has one kind of hook; these places are {', '.join(places)}")
    return hook
