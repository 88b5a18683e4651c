"""circuit-tracer's transcoder sets and cross-layer transcoders: a folder of safetensors files and ``config.yaml``.

- A set has ``layer_{i}.safetensors``: W_enc [d_sae, d], W_dec [d_sae, d], b_enc, b_dec, and where the dictionary has
  them W_skip [d_out, d_in] and ``activation_function.threshold``.
- A CLT has ``W_enc_{i}.safetensors`` (W_enc_{i} [d_sae, d], b_enc_{i}, b_dec_{i}, threshold_{i}, and in later versions
  W_skip_{i} [d_in, d_out]) and ``W_dec_{i}.safetensors`` (W_dec_{i} [d_sae, layers - i, d]), whose rows can be read
  alone.

Files are counted: one that is missing, or stands beside the others without being named, is an error. Their TopK keeps
negative values where fewer than k are above zero; ours never does.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jaxtyping import Float, Int
from torch import Tensor

from interp.files.outside import reading
from interp.files.tensor_files import write_tensors
from interp.files.writing import atomic_path
from saes.convert.circuit_tracer import CONFIG, activation_of, model_of, read_yaml, sites_of_layer, text_of
from saes.convert.record import imported
from saes.convert.weights import read_safetensors
from saes.places.dictionary import Dictionary
from saes.places.elsewhere import read_elsewhere
from saes.places.filled import filled, numbered, stored_rows
from saes.places.layout import Layout
from saes.same_model import said_model_of

_KINDS = {"transcoder_set": "transcoders", "cross_layer_transcoder": "clt"}
_THRESHOLD = "activation_function.threshold"


def recognises(folder: Path) -> bool:
    """Whether the files of a set or CLT, or a configuration that names them, are there."""
    there = any(any(folder.glob(f"{name}_*.safetensors")) for name in ("layer", "W_enc"))
    return there or "model_kind" in read_yaml(folder / CONFIG)


def read_circuit_tracer(folder: str | Path) -> Dictionary:
    """A set or CLT from a local folder. A set without a configuration is as those of Qwen3 are: of the MLP's input and
    output, with the model in the folder's name.

    Raises:
        ValueError: no such folder, damaged files, files that do not fit together, or what no dictionary here computes.

    Example:
        >>> import torch
        >>> from saes import ReLU
        >>> from saes.places import Dictionary, Layout, read_circuit_tracer, write_circuit_tracer
        >>> layout = Layout("transcoders", ("blocks.0.mlp.hook_in",), ("blocks.0.hook_mlp_out",))
        >>> dictionary = Dictionary(layout, ((8,), (8,)), d_sae=16, activation=ReLU())
        >>> dictionary = dictionary.initialise(seed=0, means=[torch.zeros(8)])
        >>> write_circuit_tracer(dictionary, "set")
        >>> read_circuit_tracer("set").layout == layout
        True
    """
    place = Path(folder)
    with reading(place, "holds no circuit-tracer dictionary that can be read"):
        config = read_yaml(place / CONFIG)
        if config and config.get("model_kind") not in _KINDS:
            found = config.get("model_kind")
            raise ValueError(f"model_kind of {CONFIG} is {found!r}; it must be one of {', '.join(_KINDS)}")
        if "transcoders" in config:
            return read_elsewhere(_KINDS[config["model_kind"]], config, place)
        by_files = "clt" if any(place.glob("W_enc_*.safetensors")) else "transcoders"
        kind = _KINDS[config["model_kind"]] if config else by_files
        if kind == "clt" and not {"feature_input_hook", "feature_output_hook"} <= set(config):
            raise ValueError(f"what hooks a CLT reads and writes (feature_input_hook, ..) stands in {CONFIG} alone")
        layers = numbered(place, "layer" if kind == "transcoders" else "W_enc")
        if kind == "clt" and (decoders := numbered(place, "W_dec")) != layers:
            raise ValueError(f"there are {layers} files W_enc_*, but {decoders} files W_dec_*")
        weights = [_of_set(place, i) if kind == "transcoders" else _of_clt(place, i) for i in range(layers)]
        return _built(kind, config, weights, place)


def write_circuit_tracer(dictionary: Dictionary, folder: str | Path) -> None:
    """Write a transcoder set or CLT for circuit-tracer; the configuration comes last.

    Raises:
        ValueError: a crosscoder, an activation or skip connection that circuit-tracer cannot hold, or places that are
            not one kind of hook in consecutive layers from 0.

    Example:
        >>> import torch
        >>> from saes import ReLU
        >>> from saes.places import Dictionary, Layout, write_circuit_tracer
        >>> layout = Layout("transcoders", ("blocks.0.mlp.hook_in",), ("blocks.0.hook_mlp_out",))
        >>> dictionary = Dictionary(layout, ((8,), (8,)), d_sae=16, activation=ReLU())
        >>> dictionary = dictionary.initialise(seed=0, means=[torch.zeros(8)])
        >>> from pathlib import Path
        >>> write_circuit_tracer(dictionary, "set")
        >>> (Path("set") / "config.yaml").exists()
        True
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
        raise ValueError("circuit-tracer 0.5.0 reads no skip connection of a CLT from files; this one has one")
    config = {
        "model_name": said_model_of(dictionary.provenance),
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


def rows(folder: Path, part: int, latents: Int[Tensor, " n"]) -> Float[Tensor, "n places d"]:
    """See ``decoder_rows`` of ``saes.places``."""
    if (file := folder / f"layer_{part}.safetensors").is_file():
        return stored_rows(file, "W_dec", latents)[:, None]
    return stored_rows(folder / f"W_dec_{part}.safetensors", f"W_dec_{part}", latents)


def _of_set(folder: Path, number: int) -> dict[str, Any]:
    weights: dict[str, Any] = read_safetensors(folder / f"layer_{number}.safetensors")
    weights |= {"W_enc": weights["W_enc"].T, "W_dec": [weights["W_dec"]]}
    if _THRESHOLD in weights:
        weights["threshold"] = weights.pop(_THRESHOLD).expand(len(weights["b_enc"]))
    return weights


def _of_clt(folder: Path, number: int) -> dict[str, Any]:
    found = read_safetensors(folder / f"W_enc_{number}.safetensors")
    found |= read_safetensors(folder / f"W_dec_{number}.safetensors")
    weights: dict[str, Any] = {name.removesuffix(f"_{number}"): tensor for name, tensor in found.items()}
    if weights["W_dec"].ndim != 3:
        raise ValueError(f"W_dec_{number} has shape {tuple(weights['W_dec'].shape)}, expected [d_sae, layers, d]")
    weights |= {"W_enc": weights["W_enc"].T, "W_dec": weights["W_dec"].unbind(1)}
    if "W_skip" in weights:  # of a CLT [d_in, d_out], where a set's is [d_out, d_in]
        weights["W_skip"] = weights["W_skip"].T
    return weights


def _built(kind: str, config: dict[str, Any], weights: Sequence[dict[str, Any]], folder: Path) -> Dictionary:
    model = model_of(config, folder)
    sites = [sites_of_layer(layer, config, model) for layer in range(len(weights))]
    reads, writes = (tuple(site for site in side if site is not None) for side in zip(*sites, strict=True))
    if len(reads) < len(sites) or len(writes) < len(sites):
        hooks = (config.get("feature_input_hook"), config.get("feature_output_hook"))
        raise ValueError(f"{CONFIG} names the hooks {hooks[0]!r} and {hooks[1]!r}, which are no places here")
    for number, its in enumerate(weights):
        if "threshold" in its and bool((its["threshold"] < 0).any()):
            raise ValueError(
                f"layer {number} has thresholds below 0, through which negative latents pass; ours have none"
            )
    return filled(
        Layout(kind, reads, writes),
        weights,
        activation=activation_of(config, thresholds="threshold" in weights[0], where=folder / CONFIG),
        provenance=imported("circuit_tracer", config=config or None, model=model, text=text_of(model)),
        where=folder,
    )


def _hook(places: Sequence[str]) -> str:
    """What all names share behind the layer's number."""
    parts = [re.fullmatch(r"blocks\.(\d+)\.(.+)", place) for place in places]
    if any(part is None or int(part[1]) != number for number, part in enumerate(parts)):
        raise ValueError(f"circuit-tracer has every layer from 0; these places are {', '.join(places)}")
    (hook, *others) = {part[2] for part in parts if part is not None}
    if others:
        raise ValueError(f"circuit-tracer has one kind of hook; these places are {', '.join(places)}")
    return hook
