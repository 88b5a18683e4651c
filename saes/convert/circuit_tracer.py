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
_CONFIG = "config.yaml"
_THRESHOLD = "activation_function.threshold"
_IN, _OUT = "mlp.hook_in", "hook_mlp_out"
"""Where a set without a configuration reads and writes."""
_QWEN = re.compile(r"qwen3-(?P<size>[\d.]+)b-transcoders", re.IGNORECASE)


def recognises(path: Path) -> bool:
    """Whether ``path`` is the file of one of its transcoders."""
    return path.is_file() and _FILE.fullmatch(path.name) is not None


def read(path: Path) -> Record:
    """The transcoder of one layer; nothing is subtracted from its input."""
    named = _FILE.fullmatch(path.name)
    assert named is not None
    layer, config = int(named["layer"]), read_yaml(path.with_name(_CONFIG))
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise ValueError(f"{path}: its config.yaml is of a {config['model_kind']!r}, which is more than one file")
    found = read_safetensors(path)
    weights = {name: value for name, value in found.items() if name not in ("W_enc", _THRESHOLD)}
    weights["W_enc"] = found["W_enc"].T
    activation: Activation = ReLU()
    if _THRESHOLD in found:
        activation, weights["threshold"] = JumpReLU(), found[_THRESHOLD]
        if (found[_THRESHOLD] < 0).any():
            raise ValueError(f"{path}: thresholds below 0 let latents be negative, which ours never are")
        weights["threshold"] = weights["threshold"].expand(len(weights["b_enc"])).float()
    elif config.get("activation") == "topk":
        activation = TopK(whole_number(config.get("k"), name="k", where=path.with_name(_CONFIG)))
    elif config.get("activation", "relu") != "relu":
        raise ValueError(f"{path}: the activation {config['activation']!r} has no counterpart here")
    model = text(config.get("model_name")) or _model_in(path)
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


def _model_in(path: Path) -> str | None:
    """Some sets of Qwen3 say their model in the name of their repository alone."""
    found = next((match for part in path.resolve().parts if (match := _QWEN.search(part))), None)
    return None if found is None else f"Qwen/Qwen3-{found['size']}B"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, without tags of Python's; nothing where there is no file."""
    if not path.is_file():
        return {}
    with reading(path, "is not YAML"):
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a mapping")
        return value
