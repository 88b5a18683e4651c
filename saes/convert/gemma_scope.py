"""Gemma Scope: ``params.npz`` (the first release) or ``params.safetensors`` with lower-case names (the second).

Where a dictionary belongs is in the names of its folders in the repository (``gemma-scope-2b-pt-res/layer_20/...``,
``resid_post/layer_12_width_16k_l0_small``), in the second release also in ``config.json`` beside it.
"""

import math
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.files.outside import read_json, reading
from saes.activations import JumpReLU
from saes.convert.record import Record, imported
from saes.convert.site_names import layer_in, mlp_output_behind, of_module
from saes.convert.weights import check_skip, read_safetensors, renamed, text

_NAMES = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}
_FIRST = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<tuned>pt|it)-(?P<kind>res|att|mlp|transcoders)")
_SECOND = re.compile(r"gemma-scope-2-(?P<size>\d+[mb])-(?P<tuned>pt|it)")
_KINDS = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out", "transcoders": "ln2.hook_normalized"}
_KIND_FOLDER = re.compile(r"(?P<kind>resid_post|attn_out|mlp_out|transcoder)(_all)?")
_MODULES = {
    "resid_post": "model.layers.{layer}.output",
    "attn_out": "model.layers.{layer}.self_attn.o_proj.input",
    "mlp_out": "model.layers.{layer}.post_feedforward_layernorm.output",
    "transcoder": "model.layers.{layer}.pre_feedforward_layernorm.output",
}
_OVER_SEVERAL = re.compile(r"(?P<kind>clt|crosscoder)(_all)?")
_CHUNK = 2**20
_FIRST_POSITION_TUNED = 4
"""Of an instruction-tuned model the start of the chat template was left out of training in the second release."""


def recognises(folder: Path) -> bool:
    """Whether one of its SAEs or transcoders is there."""
    return any((folder / f"params.{kind}").is_file() for kind in ("npz", "safetensors"))


def read(folder: Path) -> Record:
    """A JumpReLU SAE or transcoder; b_dec is not subtracted from the input."""
    first = (folder / "params.npz").is_file()
    found = _read_npz(folder / "params.npz") if first else read_safetensors(folder / "params.safetensors")
    weights = renamed(found, _NAMES, where=folder)
    if "affine_skip_connection" in found:  # [d_in, d_out]
        weights["W_skip"] = weights["W_skip"].T
    where = folder.resolve()
    if not first and type(said := _config(where).get("affine_connection")) is bool:
        check_skip(weights, said, said=f"affine_connection is {said}", where=folder)
    if first and _is_embedding(where):  # trained on rows of the embedding matrix; the model multiplies them by this
        scale = math.sqrt(weights["W_enc"].shape[0])
        weights["W_enc"], weights["W_dec"] = weights["W_enc"] / scale, weights["W_dec"] * scale
    return Record(
        activation=JumpReLU(),
        weights=weights,
        where=folder,
        subtract_b_dec=False,
        **(_first_release(where) if first else _second_release(where)),
    )


def _is_embedding(where: Path) -> bool:
    return "embedding" in where.parts and any(_FIRST.search(part) for part in where.parts)


def _first_release(where: Path) -> dict[str, Any]:
    """Site and provenance from the repository's name and the layer's folder."""
    repository = _named(where, _FIRST)
    layer = layer_in(where)
    if repository is None or (layer is None and not _is_embedding(where)):
        place = "its folders are not named as in Gemma Scope's repositories, gemma-scope-2b-pt-res/layer_20/..."
        return {"provenance": imported("gemma_scope", place=place)}
    tuned = "-it" if repository["tuned"] == "it" else ""
    transcoder = repository["kind"] == "transcoders"
    facts = {
        "model": f"google/gemma-2-{repository['size']}{tuned}",
        "transcoder": transcoder,
        "text": {"context": 1024, "bos": "row"},
    }
    if layer is None:
        return {"site": "blocks.0.hook_resid_pre", "provenance": imported("gemma_scope", **facts)}
    return {
        "site": f"blocks.{layer}.{_KINDS[repository['kind']]}",
        "target_site": f"blocks.{layer}.hook_mlp_out" if transcoder else None,
        "provenance": imported("gemma_scope", **facts),
    }


def _second_release(where: Path) -> dict[str, Any]:
    """Site and provenance from ``config.json``, or else from the folders' names."""
    config = _config(where)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise ValueError(f"{where}: Gemma Scope's architecture {config['architecture']!r} has no counterpart here")
    if several := kind_over_several(where, config):
        raise ValueError(f"{where}: one part of a {several}, which reads or writes at several layers at once")
    kind = _named(where, _KIND_FOLDER, whole=True)
    layer = layer_in(where)
    module, out = text(config.get("hf_hook_point_in")), text(config.get("hf_hook_point_out"))
    if module is None and kind is not None and layer is not None:
        module = _MODULES[kind["kind"]].format(layer=layer)
    # The norms' names are Gemma's, whatever the model is called here.
    site = of_module(module, model="gemma-3")
    # The configurations of SAEs name the same place twice, and say affine_connection too: false.
    transcoder = (
        out not in (None, module)
        or (kind is not None and kind["kind"] == "transcoder")
        or config.get("type") == "transcoder"
        or config.get("affine_connection") is True
    )
    target = of_module(out, model="gemma-3") or (mlp_output_behind(site) if transcoder else None)
    known = site is not None and (target is not None or not transcoder)
    facts = {
        "config": config,
        "transcoder": transcoder,
        "place": None if known else f"its config.json says {module!r}, and its folders no kind of place",
        **of_second_release(where, config),
    }
    return {"site": site, "target_site": target if transcoder else None, "provenance": imported("gemma_scope", **facts)}


def _config(where: Path) -> dict[str, Any]:
    return read_json(where / "config.json") if (where / "config.json").is_file() else {}


def of_second_release(where: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The model of a dictionary of the second release, and how it was run: what ``imported`` takes of both."""
    repository, model = _named(where, _SECOND), text(config.get("model_name"))
    if model is None and repository is not None:
        model = f"gemma-3-{repository['size']}-{repository['tuned']}"
    hub_name = None if model is None else _hub_name(model)
    tuned = hub_name is not None and hub_name.endswith("-it")
    first_position = {"first_position": _FIRST_POSITION_TUNED} if tuned else {}
    return {"model": hub_name, "text": {"context": 1024, "bos": "row"} | first_position}


def kind_over_several(where: Path, config: Mapping[str, Any]) -> str | None:
    """``clt`` or ``crosscoder``, where the configuration or a folder says that the files are one."""
    if config.get("type") in ("clt", "crosscoder"):
        return str(config["type"])
    found = _named(where, _OVER_SEVERAL, whole=True)
    return None if found is None else found["kind"]


def _hub_name(model: str) -> str:
    """``gemma-v3-1b-pt`` of the configurations is ``google/gemma-3-1b-pt``; the smallest has no ``-pt`` there. Another
    model's name stays: files that were written here are of any."""
    name = model.replace("-v3", "-3")
    name = name.replace("-pt", "") if "270m" in name else name
    return f"google/{name}" if name.startswith("gemma") else name


def _named(where: Path, pattern: re.Pattern[str], *, whole: bool = False) -> re.Match[str] | None:
    found = (pattern.fullmatch(part) if whole else pattern.search(part) for part in reversed(where.parts))
    return next((match for match in found if match), None)


def _read_npz(path: Path) -> dict[str, Tensor]:
    complaint = "is damaged or holds more than arrays, and was not executed"
    with reading(path, complaint):
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
        return {name: torch.from_numpy(_mapped(path, f"{name}.npy")) for name in names}


def _mapped(path: Path, name: str) -> np.ndarray:
    """An array of an archive, mapped into memory where it is not compressed; it is not written to."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        info = archive.getinfo(name)
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(member)
        begin = member.tell()
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects")
        if begin + size != info.file_size:
            raise ValueError(f"{name} claims {size} bytes of values, and holds {info.file_size - begin}")
        if info.compress_type != zipfile.ZIP_STORED or size == 0:
            return np.frombuffer(bytearray(member.read()), dtype).reshape(shape, order="F" if fortran else "C")
        while member.read(_CHUNK):  # at its end the archive's checksum is compared
            pass
    with path.open("rb") as file:  # the local header's name and extra field, whose lengths stand in it
        file.seek(info.header_offset + 26)
        lengths = struct.unpack("<HH", file.read(4))
    offset = info.header_offset + 30 + sum(lengths) + begin
    return np.memmap(path, dtype, "c", offset, shape, order="F" if fortran else "C")
