"""Gemma Scope 2's cross-layer transcoders and crosscoders: ``params_layer_0.safetensors`` and on, a file a layer.

    latents_l = relu(pre) where pre > threshold_l, of pre = x_l @ w_enc_l + b_enc_l
    x_hat_m   = sum over layers l of latents_l @ w_dec_l[:, m] + b_dec_m (+ x_m @ affine_skip_connection_m)

``w_dec`` [d_sae, layers, d] has rows for earlier layers too; a CLT does not write there, and neither do these
crosscoders, which are weakly causal (a latent reads one layer, and writes that one and later ones): they must be zero.
The k-th file of a crosscoder is of the k-th layer in its folder's name, ``layer_7_13_17_22_width_262k_l0_medium``.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files.outside import read_json, reading
from saes.activations import JumpReLU
from saes.convert.gemma_scope import kind_over_several, of_second_release
from saes.convert.record import imported
from saes.convert.weights import read_safetensors
from saes.places.dictionary import Dictionary
from saes.places.filled import filled, numbered
from saes.places.layout import Layout

_FILE = "params_layer"
_LAYERS = re.compile(r"layer_(?P<layers>\d+(_\d+)*)_width")
_NOTHING = 1e-6
"""Share of the largest weight below which weights to earlier layers count as rounding."""


def recognises(folder: Path) -> bool:
    """Whether files of one are there."""
    return any(folder.glob(f"{_FILE}_*.safetensors"))


def read_gemma_scope(folder: str | Path) -> Dictionary:
    """A CLT (kind ``clt``) or crosscoder (of the same kind, over places that it reads and writes).

    Raises:
        ValueError: damaged files, files that do not fit together, or nothing that says which of the two they are.
    """
    place = Path(folder)
    with reading(place, "holds no dictionary of Gemma Scope 2 that can be read"):
        where = place.resolve()
        config = read_json(place / "config.json") if (place / "config.json").is_file() else {}
        if config.get("architecture", "jump_relu") != "jump_relu":
            raise ValueError(f"its architecture is {config['architecture']!r}, not jump_relu")
        kind = kind_over_several(where, config)
        if kind is None:
            raise ValueError(
                "neither a config.json nor a folder's name says whether this is a clt or a crosscoder: keep it in"
                " folders called as theirs are, clt/width_262k_l0_medium or"
                " crosscoder/layer_7_13_17_22_width_262k_l0_medium"
            )
        count = numbered(place, _FILE)
        weights = [_part(place, number, count) for number in range(count)]
        facts = {"config": config or None, **of_second_release(where, config)}
        return filled(
            _layout(kind, where, count),
            weights,
            activation=JumpReLU(),
            provenance=imported("gemma_scope", **facts),
            where=place,
            names=[f"{_FILE}_{number}.safetensors" for number in range(count)],
        )


def _part(folder: Path, number: int, count: int) -> dict[str, Any]:
    found = read_safetensors(folder / f"{_FILE}_{number}.safetensors")
    w_dec = found.pop("w_dec")
    if w_dec.ndim != 3 or w_dec.shape[1] != count:
        shape = tuple(w_dec.shape)
        raise ValueError(f"w_dec of file {number} has shape {shape}, expected [d_sae, {count} (files there are), d]")
    largest = _largest(w_dec)
    if number and (before := _largest(w_dec[:, :number])) > _NOTHING * largest:
        raise ValueError(
            f"the latents of file {number} write to earlier layers too (weights up to {before:.2g}, of {largest:.2g} in"
            " all), which no dictionary here does"
        )
    weights: dict[str, Any] = {"W_enc": found.pop("w_enc"), "W_dec": w_dec[:, number:].unbind(1)}
    if "affine_skip_connection" in found:  # [d_in, d_out]
        weights["W_skip"] = found.pop("affine_skip_connection").T
    return weights | found


def _largest(values: Tensor) -> float:
    """Of absolute values, without a copy of them."""
    low, high = torch.aminmax(values)
    return float(torch.maximum(-low, high))


def _layout(kind: str, where: Path, count: int) -> Layout:
    if kind == "clt":
        reads, writes = ("mlp.hook_in", "hook_mlp_out")
        return Layout("clt", *(tuple(f"blocks.{i}.{hook}" for i in range(count)) for hook in (reads, writes)))
    named = next((match for part in reversed(where.parts) if (match := _LAYERS.search(part))), None)
    if named is None:
        raise ValueError(
            "which layers it is of stands in its folder's name alone, layer_7_13_17_22_width_262k_l0_medium"
        )
    layers = [int(number) for number in named["layers"].split("_")]
    if len(layers) != count:
        raise ValueError(f"its folder's name has the layers {layers}, and there are {count} files")
    places = tuple(f"blocks.{layer}.hook_resid_post" for layer in layers)
    return Layout("clt", places, places)
