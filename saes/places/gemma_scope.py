"""Gemma Scope 2's cross-layer transcoders and crosscoders: ``params_layer_0.safetensors`` and on, a file a layer.

    latents_l = relu(pre) where pre > threshold_l, of pre = x_l @ w_enc_l + b_enc_l
    x_hat_m   = sum over layers l of latents_l @ w_dec_l[:, m] + b_dec_m (+ x_m @ affine_skip_connection_m)

``w_dec`` [d_sae, layers, d] has rows for earlier layers too; a CLT does not write there, and neither do these
crosscoders, which are weakly causal (a latent reads one layer, and writes that one and later ones): they must be zero.
The k-th file of a crosscoder is of the k-th layer in its folder's name, ``layer_7_13_17_22_width_262k_l0_medium``; of
those that were written here ``config.json`` says the layers too.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.files.outside import read_json, reading
from interp.files.tensor_files import write_tensors
from interp.files.writing import write_json
from saes.activations import JumpReLU
from saes.convert.gemma_scope import kind_over_several, of_second_release
from saes.convert.record import OURS, imported, kept
from saes.convert.weights import check_skip, read_safetensors
from saes.places.dictionary import Dictionary
from saes.places.filled import filled, held, numbered, stored_rows
from saes.places.layout import Layout
from saes.same_model import said_model_of

_FILE, _CONFIG = "params_layer", "config.json"
_HOLDS = ("relu", "jumprelu", "batchtopk", "matryoshka")
"""All of which are JumpReLU, with a threshold of 0 or of all latents."""
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

    Example:
        >>> import torch
        >>> from saes import ReLU
        >>> from saes.places import Dictionary, Layout, read_gemma_scope, write_gemma_scope
        >>> layers = range(2)
        >>> reads, writes = ([f"blocks.{i}.{hook}" for i in layers] for hook in ("mlp.hook_in", "hook_mlp_out"))
        >>> clt = Dictionary(Layout("clt", tuple(reads), tuple(writes)), ((8, 8),) * 2, d_sae=16, activation=ReLU())
        >>> write_gemma_scope(clt.initialise(seed=0, means=[torch.zeros(8)] * 2), "clt")
        >>> [part.written_widths for part in read_gemma_scope("clt").parts]
        [(8, 8), (8,)]
    """
    place = Path(folder)
    with reading(place, "holds no dictionary of Gemma Scope 2 that can be read"):
        where = place.resolve()
        config = read_json(place / _CONFIG) if (place / _CONFIG).is_file() else {}
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
        if type(said := config.get("affine_connection")) is bool:
            for part in weights:
                check_skip(part, said, said=f"affine_connection is {said}", where=place)
        ours = config.get(OURS)
        facts = {"config": config or None, **of_second_release(where, config)}
        if isinstance(ours, dict):  # of another training than Google's
            facts["text"] = ours.get("text")
        return filled(
            _layout(kind, where, count, ours),
            weights,
            activation=JumpReLU(),
            provenance=imported("gemma_scope", ours=ours, **facts),
            where=place,
            names=[f"{_FILE}_{number}.safetensors" for number in range(count)],
        )


def write_gemma_scope(dictionary: Dictionary, folder: str | Path) -> None:
    """Write a CLT, or a weakly causal crosscoder, as Gemma Scope 2 has them; the configuration comes last.

    Raises:
        ValueError: a transcoder set or acausal crosscoder, an activation that is no JumpReLU outside training, places
            of several widths or other than Gemma Scope 2's, or a folder whose name says other layers.

    Example:
        >>> import torch
        >>> from saes import ReLU
        >>> from saes.places import Dictionary, Layout, load_any, write_gemma_scope
        >>> layers = range(2)
        >>> reads, writes = ([f"blocks.{i}.{hook}" for i in layers] for hook in ("mlp.hook_in", "hook_mlp_out"))
        >>> clt = Dictionary(Layout("clt", tuple(reads), tuple(writes)), ((8, 8),) * 2, d_sae=16, activation=ReLU())
        >>> write_gemma_scope(clt.initialise(seed=0, means=[torch.zeros(8)] * 2), "clt")
        >>> load_any("clt").layout.kind
        'clt'
    """
    out, layout = Path(folder), dictionary.layout
    if layout.kind != "clt":
        raise ValueError(f"Gemma Scope 2 holds CLTs and weakly causal crosscoders; this is of the kind {layout.kind}")
    layers = _layers_of(layout)
    named = _layers_named(out.resolve())
    if layout.autoencodes and named not in (None, layers):
        raise ValueError(f"{out}: the folder's name has the layers {named}, the crosscoder is of {layers}")
    weights = held(dictionary, tool="Gemma Scope 2", allowed=_HOLDS)
    for number, its in enumerate(weights):
        d_sae, d = its["W_dec"][0].shape
        w_dec = its["W_dec"][0].new_zeros(d_sae, len(weights), d)
        for later, block in enumerate(its["W_dec"], start=number):
            w_dec[:, later] = block
        tensors = {name: its[name] for name in ("b_enc", "b_dec")} | {"w_enc": its["W_enc"], "w_dec": w_dec}
        tensors["threshold"] = its.get("threshold", torch.zeros(d_sae))
        if "W_skip" in its:
            tensors["affine_skip_connection"] = its["W_skip"].T
        write_tensors(out / f"{_FILE}_{number}.safetensors", tensors)
    model, said = said_model_of(dictionary.provenance), dictionary.provenance.get("imported")
    config = {
        "architecture": "jump_relu",
        "type": "crosscoder" if layout.autoencodes else "clt",
        "affine_connection": "W_skip" in weights[0],
        OURS: {"layers": layers, "text": said.get("text") if isinstance(said, dict) else None}
        | kept(dictionary.provenance),
    }
    write_json(out / _CONFIG, config | ({} if model is None else {"model_name": model}))


def rows(folder: Path, part: int, latents: Int[Tensor, " n"]) -> Float[Tensor, "n places d"]:
    """See ``decoder_rows`` of ``saes.places``."""
    return stored_rows(folder / f"{_FILE}_{part}.safetensors", "w_dec", latents, after=(slice(part, None),))


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


def _layout(kind: str, where: Path, count: int, ours: Any) -> Layout:
    if kind == "clt":
        return Layout("clt", *_places(range(count), crosscoder=False))
    layers = _layers_named(where) or (ours.get("layers") if isinstance(ours, dict) else None)
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ValueError(
            "which layers it is of stands in its folder's name alone, layer_7_13_17_22_width_262k_l0_medium"
        )
    if len(layers) != count:
        raise ValueError(f"its folder's name has the layers {layers}, and there are {count} files")
    return Layout("clt", *_places(layers, crosscoder=True))


def _places(layers: Iterable[int], *, crosscoder: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is read and what is written."""
    hooks = ("hook_resid_post",) * 2 if crosscoder else ("mlp.hook_in", "hook_mlp_out")
    reads, writes = (tuple(f"blocks.{layer}.{hook}" for layer in layers) for hook in hooks)
    return reads, writes


def _layers_named(where: Path) -> list[int] | None:
    """The layers in a folder's name, the innermost first."""
    named = next((match for part in reversed(where.parts) if (match := _LAYERS.search(part))), None)
    return None if named is None else [int(number) for number in named["layers"].split("_")]


def _layers_of(layout: Layout) -> list[int]:
    """Raises ValueError for places that Gemma Scope 2 has no such dictionary of."""
    found = [re.match(r"blocks\.(\d+)\.", place) for place in layout.reads]
    layers = [int(match[1]) for match in found if match]
    wanted = layers if layout.autoencodes else list(range(len(layout.reads)))
    if layers != wanted or (layout.reads, layout.writes) != _places(wanted, crosscoder=layout.autoencodes):
        raise ValueError(
            "Gemma Scope 2 has CLTs from blocks.*.mlp.hook_in to blocks.*.hook_mlp_out of every layer from 0, and"
            f" crosscoders of blocks.*.hook_resid_post; this one reads {', '.join(layout.reads)} and writes"
            f" {', '.join(layout.writes)}"
        )
    return layers
