"""circuit-tracer's transcoders: one ``layer_3.safetensors`` a layer, with ``config.yaml`` (or none) for all of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from interp.files.outside import reading
from saes.activations import Activation, JumpReLU, ReLU, TopK
from saes.convert.record import Record, imported
from saes.convert.site_names import of_hook, of_module
from saes.convert.weights import read_safetensors, text, whole_number

_FILE = re.compile(r"layer_(?P<layer>\d+)\.safetensors")
CONFIG = "config.yaml"
_THRESHOLD = "activation_function.threshold"
_IN, _OUT = "mlp.hook_in", "hook_mlp_out"
"""Where a set without a configuration reads and writes."""
_TOPK_BY_NAME, _TOPK_BY_NAME_K, _TOPK_BY_NAME_MODEL = (
    "crv-8b-instruct-transcoders",
    128,
    "meta-llama/Llama-3.1-8B-Instruct",
)
"""The one set whose TopK circuit-tracer's loader knows by its name."""
_QWEN = re.compile(r"qwen3-(?P<size>[\d.]+)b-transcoders", re.IGNORECASE)


def recognises(path: Path) -> bool:
    """Whether ``path`` is the file of one of its transcoders."""
    return path.is_file() and _FILE.fullmatch(path.name) is not None


def read(path: Path) -> Record:
    """The transcoder of one layer; nothing is subtracted from its input."""
    named = _FILE.fullmatch(path.name)
    assert named is not None
    layer, config = int(named["layer"]), read_yaml(path.with_name(CONFIG))
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise ValueError(f"{path}: its config.yaml is of a {config['model_kind']!r}, which is more than one file")
    found = read_safetensors(path)
    weights = {name: value for name, value in found.items() if name not in ("W_enc", _THRESHOLD)}
    weights["W_enc"] = found["W_enc"].T
    if _THRESHOLD in found:
        if (found[_THRESHOLD] < 0).any():
            raise ValueError(f"{path}: thresholds below 0 let latents be negative, which ours never are")
        weights["threshold"] = found[_THRESHOLD].expand(len(weights["b_enc"])).float()
    activation = activation_of(config, thresholds=_THRESHOLD in found, where=path.with_name(CONFIG))
    model = model_of(config, path)
    site, target = sites_of_layer(layer, config, model)
    facts = {"config": config or None, "model": model, "transcoder": True, "text": text_of(model)}
    if site is None or target is None:
        facts["place"] = (
            f"its config.yaml names {config.get('feature_input_hook')!r} and {config.get('feature_output_hook')!r}"
        )
    return Record(
        activation=activation,
        weights=weights,
        where=path,
        subtract_b_dec=False,
        site=site,
        target_site=target,
        provenance=imported("circuit_tracer", **facts),
    )


def activation_of(config: Mapping[str, Any], *, thresholds: bool, where: Path) -> Activation:
    """What a set or CLT does with pre-activations: ReLU where neither its configuration nor its files say anything.

    Raises:
        ValueError: an activation that has no counterpart here, or the one published set whose TopK is said nowhere in
            its files, under another name than its own.
    """
    said = config.get("activation")
    if said == "topk":
        return TopK(whole_number(config.get("k"), name="k", where=where))
    if said not in (None, "relu", "jump_relu"):
        raise ValueError(f"{where}: activation of {CONFIG} is {said!r}; there are topk, relu and jump_relu")
    if thresholds:
        return JumpReLU()
    if said == "jump_relu":
        raise ValueError(f"{where}: activation is jump_relu, and its files hold no thresholds")
    if said is None and any(_TOPK_BY_NAME in part for part in where.absolute().parts):
        return TopK(_TOPK_BY_NAME_K)
    if said is None and config.get("model_name") == _TOPK_BY_NAME_MODEL:
        raise ValueError(
            f"{where} does not say what its latents are. facebook/{_TOPK_BY_NAME}, the published set of this model, has"
            f" TopK with k = {_TOPK_BY_NAME_K}, which stands in no file of it: write 'activation: topk' and 'k:"
            f" {_TOPK_BY_NAME_K}' into {CONFIG}, or 'activation: relu' where these are others"
        )
    return ReLU()


def model_of(config: Mapping[str, Any], where: Path) -> str | None:
    """The model's name from the configuration, else, as for some sets of Qwen3, from the repository's name alone."""
    found = next((match for part in where.resolve().parts if (match := _QWEN.search(part))), None)
    return text(config.get("model_name")) or (None if found is None else f"Qwen/Qwen3-{found['size']}B")


def sites_of_layer(layer: int, config: Mapping[str, Any], model: str | None) -> tuple[str | None, str | None]:
    """Where the transcoders of one layer read and write, None where the configuration's words name no place."""
    read = _site(layer, config.get("feature_input_hook", _IN), model, entering=True)
    return read, _site(layer, config.get("feature_output_hook", _OUT), model, entering=False)


def text_of(model: str | None) -> dict[str, Any]:
    """How models are run where these are trained: behind BOS, or the start of Gemma 3's chat template."""
    tuned = model is not None and "gemma-3" in model and model.endswith("-it")
    return {"bos": "row", "first_position": 4 if tuned else 1}


def _site(layer: int, hook: Any, model: str | None, *, entering: bool) -> str | None:
    """A hook's name without its block; ``mlp.hook_out`` is before Gemma's norm, ``hook_mlp_out`` behind it."""
    if hook == "mlp.hook_out" and not entering:
        return of_module(f"layers.{layer}.mlp", "output", model=model)
    return of_hook(f"blocks.{layer}.{hook}") if isinstance(hook, str) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, without tags of Python's; nothing where there is no file."""
    if not path.is_file():
        return {}
    with reading(path, "is not YAML"):
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a mapping")
        return value
