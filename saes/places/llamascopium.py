"""Llamascopium's cross-layer transcoders and crosscoders: ``config.json`` and one file of weights.

- A CLT has W_E [layers, d, f], b_E [layers, f], and for each layer m that is written W_D.m [m + 1, f, d] of the layers
  up to it, and b_D.m [d].
- A crosscoder has W_E [places, d, f], b_E [places, f] (whose sum is the bias), W_D [places, f, d] and b_D [places, d].

Which latents are active is decided on pre-activations times decoder norms where ``sparsity_include_decoder_norm`` says
so: a CLT's over all layers that it writes; a crosscoder's at each place apart, so that one latent may be active at some
of its places only. What was trained on activations times a constant is folded, each place with its own.

Written are CLTs without that factor, and crosscoders, which always have it, of ReLU alone: there it changes nothing.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from interp.files.outside import read_json, reading
from interp.files.tensor_files import write_tensors
from interp.files.writing import write_json
from saes.activations import Activation, JumpReLU, ReLU, TopK
from saes.convert.llama_scope import LOG_THRESHOLD, NORM, WEIGHTS, activation_of, factor_at, mean_norms
from saes.convert.record import OURS, imported, kept
from saes.convert.site_names import of_hook
from saes.convert.weights import read_safetensors, text
from saes.places.dictionary import Dictionary
from saes.places.filled import filled, held, stored_rows
from saes.places.layout import Layout
from saes.same_model import said_model_of

_CONFIG = "config.json"
_KINDS = ("clt", "crosscoder")
_HOLDS = {"clt": ("relu", "jumprelu", "batchtopk", "matryoshka", "topk"), "crosscoder": ("relu",)}


def recognises(folder: Path) -> bool:
    """Whether one of the two is there."""
    if not (folder / _CONFIG).is_file() or not any((folder / name).is_file() for name in WEIGHTS):
        return False
    try:
        return read_json(folder / _CONFIG).get("sae_type") in _KINDS
    except ValueError:
        return False


def read_llamascopium(folder: str | Path) -> Dictionary:
    """A CLT or crosscoder.

    Raises:
        ValueError: damaged files, or what no dictionary here computes; the message says which and why.

    Example:
        >>> import torch
        >>> from saes import ReLU
        >>> from saes.places import Dictionary, Layout, read_llamascopium, write_llamascopium
        >>> layers = range(2)
        >>> reads, writes = ([f"blocks.{i}.{hook}" for i in layers] for hook in ("hook_resid_mid", "hook_mlp_out"))
        >>> clt = Dictionary(Layout("clt", tuple(reads), tuple(writes)), ((8, 8),) * 2, d_sae=16, activation=ReLU())
        >>> write_llamascopium(clt.initialise(seed=0, means=[torch.zeros(8)] * 2), "clt")
        >>> [part.written_widths for part in read_llamascopium("clt").parts]
        [(8, 8), (8,)]
    """
    place = Path(folder)
    with reading(place, "holds no dictionary of Llamascopium that can be read"):
        config = read_json(place / _CONFIG)
        found = read_safetensors(_weights_file(place))
        clt = config["sae_type"] == "clt"
        hooks = _hooks(config)
        means, activation = mean_norms(found), activation_of(config, place)
        scales = [tuple(factor_at(hook, means, config, place) for hook in side) for side in hooks]
        thresholds = found.pop(LOG_THRESHOLD).float().exp() if isinstance(activation, JumpReLU) else None
        weights = _of_clt(found, len(hooks[0])) if clt else [_of_crosscoder(found, len(hooks[0]))]
        if found:
            raise ValueError(f"no rule uses {', '.join(sorted(found))}, which the file holds")
        for number, its in enumerate(weights if not isinstance(activation, ReLU) else ()):
            norms = _gating_norms(its["W_dec"], config, activation)
            threshold = None
            if thresholds is not None:
                at_places = torch.atleast_2d(thresholds)
                threshold = thresholds[number] if clt else _same_at_all_places(at_places, activation)
            _gate(its, activation, threshold, norms)
        dictionary = filled(
            Layout("clt" if clt else "crosscoder", *(tuple(_site(hook) for hook in side) for side in hooks)),
            weights,
            activation=activation,
            provenance=imported(
                "llamascopium", ours=config.get(OURS), config=config, model=text(config.get("model_name"))
            ),
            where=place,
        )
        return dictionary.fold_scales(*scales)


@torch.no_grad()
def write_llamascopium(dictionary: Dictionary, folder: str | Path) -> None:
    """Write a CLT or crosscoder for Llamascopium, of raw activations; the configuration comes last.

    Thresholds become logarithms in float32, which gives them back to within a few units of its last place.

    Raises:
        ValueError: a transcoder set, skip connections, an activation that Llamascopium selects otherwise, places of
            several widths or that are no hooks of blocks, or a latent of a crosscoder that writes nothing at a place.

    Example:
        >>> import torch
        >>> from saes import ReLU
        >>> from saes.places import Dictionary, Layout, load_any, write_llamascopium
        >>> layers = range(2)
        >>> reads, writes = ([f"blocks.{i}.{hook}" for i in layers] for hook in ("hook_resid_mid", "hook_mlp_out"))
        >>> clt = Dictionary(Layout("clt", tuple(reads), tuple(writes)), ((8, 8),) * 2, d_sae=16, activation=ReLU())
        >>> write_llamascopium(clt.initialise(seed=0, means=[torch.zeros(8)] * 2), "clt")
        >>> load_any("clt").layout.kind
        'clt'
    """
    out, layout = Path(folder), dictionary.layout
    if layout.kind not in _KINDS:
        raise ValueError(f"Llamascopium holds CLTs and crosscoders; this is of the kind {layout.kind}")
    if dictionary.parts[0].skip:
        raise ValueError("Llamascopium has no skip connections; this CLT has them")
    for site in (*layout.reads, *layout.writes):
        if not re.fullmatch(r"blocks\.\d+\.[\w.]+", site) or of_hook(site) != site:
            raise ValueError(f"Llamascopium names places by hooks, blocks.3.hook_mlp_out; {site} is none")
    weights = held(dictionary, tool=f"Llamascopium's {layout.kind}", allowed=_HOLDS[layout.kind])
    if layout.kind == "crosscoder" and bool((_norms(weights[0]["W_dec"]) == 0).any()):
        raise ValueError(
            "a latent's decoder row is zero at a place: Llamascopium's crosscoder divides by its norm there"
        )
    tensors = (_clt_tensors if layout.kind == "clt" else _crosscoder_tensors)(weights)
    d_sae, d = dictionary.d_sae, dictionary.read_widths[0]
    config: dict[str, Any] = {
        "sae_type": layout.kind,
        "d_model": d,
        "expansion_factor": _factor(d_sae, d),
        "use_decoder_bias": True,
        "act_fn": dictionary.activation.name,
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": layout.kind == "crosscoder",
        OURS: kept(dictionary.provenance),
    }
    if isinstance(dictionary.activation, TopK):
        config["top_k"] = dictionary.activation.k
    if LOG_THRESHOLD in tensors:
        config["act_fn"] = "jumprelu"
    if layout.kind == "clt":
        config |= {"hook_points_in": list(layout.reads), "hook_points_out": list(layout.writes)}
    else:
        config["hook_points"] = list(layout.reads)
    if (model := said_model_of(dictionary.provenance)) is not None:
        config["model_name"] = model
    write_tensors(out / WEIGHTS[0], tensors)
    write_json(out / _CONFIG, config)


def rows(folder: Path, part: int, latents: Int[Tensor, " n"]) -> Float[Tensor, "n places d"]:
    """See ``decoder_rows`` of ``saes.places``."""
    with reading(folder, "holds no dictionary of Llamascopium that can be read"):
        config, path = read_json(folder / _CONFIG), _weights_file(folder)
        clt, written = config["sae_type"] == "clt", _hooks(config)[1]
        parts = len(written) if clt else 1
        if not 0 <= part < parts:
            raise ValueError(f"there is no part {part}; there are {parts}, numbered from 0")
        places = range(part, len(written))
        if clt:
            of_part = (slice(part, part + 1),)
            blocks = [stored_rows(path, f"W_D.{place}", latents, before=of_part)[0] for place in places]
        else:
            blocks = list(stored_rows(path, "W_D", latents, before=(slice(None),)))
        with safe_open(path, framework="pt") as file:
            means = mean_norms({name: file.get_tensor(name) for name in file.keys() if name.startswith(NORM)})  # noqa: SIM118
        activation = activation_of(config, folder)
        if isinstance(activation, TopK) and (norms := _gating_norms(blocks, config, activation)) is not None:
            blocks = [block / norms.to(block)[:, None] for block in blocks]
        scales = [factor_at(written[place], means, config, folder) for place in places]
        return torch.stack([block / block.new_tensor(scale) for block, scale in zip(blocks, scales, strict=True)], 1)


def _weights_file(folder: Path) -> Path:
    return next(folder / name for name in WEIGHTS if (folder / name).is_file())


def _factor(d_sae: int, d: int) -> float:
    """Llamascopium takes the whole part of ``d`` times this for the number of latents."""
    factor = d_sae / d
    return factor if int(d * factor) == d_sae else math.nextafter(factor, math.inf)


def _clt_tensors(weights: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    tensors = {"W_E": torch.stack([its["W_enc"] for its in weights])}
    tensors["b_E"] = torch.stack([its["b_enc"] for its in weights])
    for layer, its in enumerate(weights):
        tensors[f"W_D.{layer}"] = torch.stack([w["W_dec"][layer - i] for i, w in enumerate(weights[: layer + 1])])
        tensors[f"b_D.{layer}"] = its["b_dec"]
    if "threshold" in weights[0]:
        tensors[LOG_THRESHOLD] = torch.stack([its["threshold"].log() for its in weights])
    return tensors


def _crosscoder_tensors(weights: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The biases of all places are added up there, so that the first place has ours."""
    (its,), places = weights, len(weights[0]["W_dec"])
    b_E = its["b_enc"].new_zeros(places, len(its["b_enc"]))
    b_E[0] = its["b_enc"]
    W_E, b_D = its["W_enc"].unflatten(0, (places, -1)), its["b_dec"].unflatten(0, (places, -1))
    return {"W_E": W_E, "b_E": b_E, "W_D": torch.stack(its["W_dec"]), "b_D": b_D}


def _hooks(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is read and what is written."""
    names = ("hook_points_in", "hook_points_out") if config["sae_type"] == "clt" else ("hook_points",) * 2
    for name in names:
        hooks = config[name]
        if not isinstance(hooks, list) or not hooks or not all(isinstance(hook, str) for hook in hooks):
            raise ValueError(f"{name} is {hooks!r}; it must be a list of hooks")
    return config[names[0]], config[names[1]]


def _site(hook: str) -> str:
    site = of_hook(hook)
    if site is None:
        raise ValueError(f"it names the hook {hook!r}, which is no place here")
    return site


def _of_clt(found: dict[str, Tensor], layers: int) -> list[dict[str, Any]]:
    """Weights of every part: its rows of the decoders to all layers from its own on."""
    W_E, b_E = found.pop("W_E"), found.pop("b_E")
    W_D = [found.pop(f"W_D.{layer}") for layer in range(layers)]
    b_D = [found.pop(f"b_D.{layer}", None) for layer in range(layers)]
    if len(W_E) != layers or [len(rows) for rows in W_D] != list(range(1, layers + 1)):
        raise ValueError(
            f"its encoders are {len(W_E)} and its decoders {[len(rows) for rows in W_D]}, of {layers} hooks"
        )
    return [
        {
            "W_enc": W_E[layer],
            "b_enc": b_E[layer],
            "W_dec": [rows[layer] for rows in W_D[layer:]],
            "b_dec": W_D[layer].new_zeros(W_D[layer].shape[-1]) if (bias := b_D[layer]) is None else bias,
        }
        for layer in range(layers)
    ]


def _of_crosscoder(found: dict[str, Tensor], places: int) -> dict[str, Any]:
    W_E, W_D = found.pop("W_E"), found.pop("W_D")
    if len(W_E) != places or len(W_D) != places:
        raise ValueError(f"its encoders are {len(W_E)} and its decoders {len(W_D)}, of {places} hooks")
    return {
        "W_enc": W_E.flatten(0, 1),
        "b_enc": found.pop("b_E").sum(0),
        "W_dec": W_D.unbind(),
        "b_dec": found.pop("b_D").flatten(),
    }


def _gate(its: dict[str, Any], activation: Activation, threshold: Tensor | None, norms: Tensor | None) -> None:
    """In place: the selection of one part as ours. Thresholds are divided by the decoder norms that pre-activations are
    multiplied by; latents of TopK are multiplied by them, and their decoder rows divided."""
    if threshold is not None:
        its["threshold"] = threshold if norms is None else threshold / norms
    elif norms is not None and isinstance(activation, TopK):
        kept = norms.to(its["W_enc"].dtype)
        its |= {"W_enc": its["W_enc"] * kept, "b_enc": its["b_enc"] * kept}
        its["W_dec"] = [block / kept[:, None] for block in its["W_dec"]]


def _gating_norms(blocks: Sequence[Tensor], config: dict[str, Any], activation: Activation) -> Tensor | None:
    """What pre-activations are multiplied by before it is decided which latents are active; None where by nothing."""
    if not config.get("sparsity_include_decoder_norm", True):
        return None
    norms = _norms(blocks)
    return norms.norm(dim=0) if config["sae_type"] == "clt" else _same_at_all_places(norms, activation)


def _norms(blocks: Sequence[Tensor]) -> Tensor:
    """Of the decoder rows at every place, [places, f]."""
    return torch.stack([block.float().norm(dim=-1) for block in blocks])


def _same_at_all_places(value: Tensor, activation: Activation) -> Tensor:
    """The first row, of [places, f], where all are equal: only then a latent is active at all its places or at none."""
    first = value[:1]
    if not torch.allclose(value, first.expand_as(value), rtol=1e-5, atol=0):
        raise ValueError(
            "each place of this crosscoder decides by its own decoder norms and thresholds which latents are active"
            f" ({activation.name}), so that one latent may be active at some of its places only: it has no counterpart"
            " here"
        )
    return first[0]
