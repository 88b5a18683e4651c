"""dictionary_learning: ``config.json`` and ``ae.pt``, a pickled state dict that is read with ``weights_only=True``."""

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files.outside import read_json
from interp.files.writing import atomic_path, write_json
from saes.activations import Activation, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from saes.convert.record import OURS, Record, imported, model_of, ours
from saes.convert.site_names import of_folder, of_hook, of_label, of_module
from saes.convert.weights import read_pickled_tensors, renamed, text, whole_number

_WEIGHTS, _CONFIG = "ae.pt", "config.json"
_KINDS = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "MatryoshkaBatchTopKSAE": "matryoshka",
}
# The others subtract b_dec from their input.
_PLAIN_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")
# Theirs -> ours; matrices of torch.nn.Linear are transposed.
_LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
_BIASES = {
    "bias": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
    "encoder.bias": "b_enc",
    "gate_bias": "b_enc",
    "mag_bias": "b_mag",
}


def recognises(folder: Path) -> bool:
    """Whether one of its autoencoders is there."""
    return (folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()


def read(folder: Path) -> Record:
    """Any of its classes."""
    config = read_json(folder / _CONFIG)["trainer"]
    name = config["dict_class"]
    if name not in _KINDS:
        raise ValueError(f"{folder}: {name!r} has no counterpart here; there are {', '.join(_KINDS)}")
    found = read_pickled_tensors(folder / _WEIGHTS)
    weights = renamed(found, _LINEAR | _BIASES, where=folder)
    for theirs, name_here in _LINEAR.items():
        if theirs in found:
            weights[name_here] = found[theirs].T
    for size in ("k", "group_sizes"):
        weights.pop(size, None)
    if _KINDS[name] == "topk":
        weights.pop("threshold", None)  # of a TopK they use it only on request
    return Record(
        activation=_activation(_KINDS[name], found, config, folder),
        weights=weights,
        where=folder,
        subtract_b_dec=name not in _PLAIN_INPUT,
        **_place(folder, config, read_json(folder / _CONFIG).get("buffer")),
    )


def _place(folder: Path, config: dict[str, Any], buffer: Any) -> dict[str, Any]:
    """Site and provenance. ``submodule_name`` is what whoever trained it called the place, ``layer`` a block, whose
    output it is where nothing else is said."""
    name, layer = config.get("submodule_name"), config.get("layer")
    model = text(config.get("lm_name"))
    site = of_label(name) or of_module(name, model=model) or of_hook(name)
    if site is None and name in (None, ""):
        site = f"blocks.{layer}.hook_resid_post" if type(layer) is int and layer >= 0 else of_folder(folder)
    place = None if site else f"its submodule_name is {name!r}, its layer {layer!r}"
    said = re.search(r"\d+", site or "")
    if said is not None and type(layer) is int and int(said[0]) != layer:
        site, place = None, f"its submodule_name is {name!r}, and its layer {layer}"
    context = buffer.get("ctx_len") if isinstance(buffer, dict) else None
    used = {"context": context} if type(context) is int and context > 0 else None
    return {
        "site": site,
        "provenance": imported(
            "dictionary_learning", ours=config.get(OURS), config=config, model=model, place=place, text=used
        ),
    }


def _activation(kind: str, found: dict[str, Any], config: dict[str, Any], folder: Path) -> Activation:
    simple: dict[str, Activation] = {"relu": ReLU(), "gated": Gated(), "jumprelu": JumpReLU()}
    if kind in simple:
        return simple[kind]
    k = whole_number(found.get("k", config.get("k")), name="k", where=folder)
    if (said := config.get("k")) not in (None, k):
        raise ValueError(
            f"{folder}: its configuration says k {said!r}, its weights {k}: one of the two files is another"
            " dictionary's; set k in config.json to what it was trained with"
        )
    if kind == "matryoshka":
        sizes = [whole_number(size, name="a group size", where=folder) for size in found["group_sizes"]]
        if sum(sizes) != (d_sae := len(found["b_enc"])):
            raise ValueError(f"{folder}: the groups have {sum(sizes)} latents together, the SAE {d_sae}")
        return Matryoshka(k, shares=tuple(sum(sizes[: i + 1]) / sum(sizes) for i in range(len(sizes))))
    return TopK(k) if kind == "topk" else BatchTopK(k)


def write(sae: Record, folder: Path) -> None:
    """Write for dictionary_learning, whose own loader wants this pickled state dict.

    Its ``load_dictionary`` rescales an ``AutoEncoder``, with its latents, to decoder columns of norm 1;
    ``AutoEncoder.from_pretrained(..., normalize_decoder=False)`` takes it as it is.

    Raises:
        ValueError: top-AFA, transcoders, ``layer_norm``, and an SAE that does not subtract b_dec where theirs does.
    """
    kind = sae.activation.name
    if kind not in _KINDS.values() or sae.skip or sae.target_site is not None or sae.d_out != sae.d_in:
        raise ValueError(
            f"dictionary_learning cannot hold this {kind} SAE; it has {', '.join(_KINDS)}, and no transcoders"
        )
    if sae.layer_norm:
        raise ValueError("dictionary_learning does not layer-normalise its input; this SAE does")
    name = "AutoEncoderNew" if kind == "relu" and not sae.subtract_b_dec else _class_of(kind)
    weights = dict(sae.weights)
    if sae.subtract_b_dec and name in _PLAIN_INPUT:
        # (x - b_dec) @ W_enc + b_enc = x @ W_enc + (b_enc - b_dec @ W_enc)
        shift = weights["b_dec"].double() @ weights["W_enc"].double()
        weights["b_enc"] = (weights["b_enc"] - shift).to(weights["b_enc"].dtype)
    elif not sae.subtract_b_dec and name not in _PLAIN_INPUT:
        raise ValueError(f"dictionary_learning's {name} subtracts b_dec from its input; this SAE does not")
    buffer = io.BytesIO()  # torch.save, given a path, does not say that the disk is full
    torch.save(_renamed(name, weights, sae), buffer)
    with atomic_path(folder / _WEIGHTS) as partial:
        partial.write_bytes(buffer.getbuffer())
    trainer = {
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "k": getattr(sae.activation, "k", None),
        "lm_name": model_of(sae),
        "submodule_name": sae.site,
        OURS: ours(sae),
    }
    write_json(folder / _CONFIG, {"trainer": trainer, "buffer": {}})


def _class_of(kind: str) -> str:
    return next(name for name, its_kind in _KINDS.items() if its_kind == kind)


def _renamed(name: str, weights: dict[str, Tensor], sae: Record) -> dict[str, Tensor]:
    if name == "JumpReluAutoEncoder":
        return weights
    k = torch.tensor(getattr(sae.activation, "k", 0))
    if name == "MatryoshkaBatchTopKSAE":
        ends = sae.activation.prefixes(sae.d_sae)
        # Of few latents two shares may end at the same one: theirs has no group without latents.
        sizes = torch.tensor([end - begin for begin, end in zip((0, *ends[:-1]), ends, strict=True) if end > begin])
        return weights | {"k": k, "group_sizes": sizes}
    linear = {"encoder.weight": weights["W_enc"].T.contiguous(), "decoder.weight": weights["W_dec"].T.contiguous()}
    if name == "GatedAutoEncoder":
        named = {"decoder_bias": "b_dec", "gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag"}
        return linear | {theirs: weights[ours] for theirs, ours in named.items()}
    linear["encoder.bias"] = weights["b_enc"]
    if name in ("AutoEncoder", "AutoEncoderNew"):
        return linear | {"bias" if name == "AutoEncoder" else "decoder.bias": weights["b_dec"]}
    # Of a TopK they use it only on request; -1 stands for none, as in a fresh one of theirs.
    threshold = weights.get("threshold", torch.tensor(-1.0))
    return linear | {"b_dec": weights["b_dec"], "k": k, "threshold": threshold}
