"""Llamascopium's cross-layer transcoders and crosscoders: ``config.json`` and one file of weights.

- A CLT has W_E [layers, d, f], b_E [layers, f], and for each layer m that is written W_D.m [m + 1, f, d] of the layers
  up to it, and b_D.m [d].
- A crosscoder has W_E [places, d, f], b_E [places, f] (whose sum is the bias), W_D [places, f, d] and b_D [places, d].

Which latents are active is decided on pre-activations times decoder norms where ``sparsity_include_decoder_norm`` says
so: a CLT's over all layers that it writes; a crosscoder's at each place apart, so that one latent may be active at some
of its places only. What was trained on activations times a constant is folded, each place with its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files.outside import read_json, reading
from saes.activations import Activation, JumpReLU, ReLU, TopK
from saes.convert.llama_scope import LOG_THRESHOLD, WEIGHTS, activation_of, factor_at, mean_norms
from saes.convert.record import imported
from saes.convert.site_names import of_hook
from saes.convert.weights import read_safetensors, text
from saes.places.dictionary import Dictionary
from saes.places.filled import filled
from saes.places.layout import Layout

_CONFIG = "config.json"
_KINDS = ("clt", "crosscoder")


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
    """
    place = Path(folder)
    with reading(place, "holds no dictionary of Llamascopium that can be read"):
        config = read_json(place / _CONFIG)
        found = read_safetensors(next(place / name for name in WEIGHTS if (place / name).is_file()))
        clt = config["sae_type"] == "clt"
        names = ("hook_points_in", "hook_points_out") if clt else ("hook_points",) * 2
        hooks = [_hooks(config, name) for name in names]
        means, activation = mean_norms(found), activation_of(config, place)
        scales = [tuple(factor_at(hook, means, config, place) for hook in side) for side in hooks]
        thresholds = found.pop(LOG_THRESHOLD).float().exp() if isinstance(activation, JumpReLU) else None
        weights = _of_clt(found, len(hooks[0])) if clt else [_of_crosscoder(found, len(hooks[0]))]
        if found:
            raise ValueError(f"no rule uses {', '.join(sorted(found))}, which the file holds")
        gated = bool(config.get("sparsity_include_decoder_norm", True))
        for number, its in enumerate(weights if not isinstance(activation, ReLU) else ()):
            if clt:
                norms = _norms(its["W_dec"]).norm(dim=0)
                threshold = None if thresholds is None else thresholds[number]
            else:
                of_places = _norms(its["W_dec"])
                norms = _same_at_all_places(of_places, activation) if gated else of_places[0]
                rows = None if thresholds is None else torch.atleast_2d(thresholds)
                threshold = None if rows is None else _same_at_all_places(rows, activation)
            _gate(its, activation, threshold, norms if gated else None)
        dictionary = filled(
            Layout("clt" if clt else "crosscoder", *(tuple(_site(hook) for hook in side) for side in hooks)),
            weights,
            activation=activation,
            provenance=imported("llamascopium", config=config, model=text(config.get("model_name"))),
            where=place,
        )
        return dictionary.fold_scales(*scales)


def _hooks(config: dict[str, Any], name: str) -> list[str]:
    hooks = config[name]
    if not isinstance(hooks, list) or not hooks or not all(isinstance(hook, str) for hook in hooks):
        raise ValueError(f"{name} is {hooks!r}; it must be a list of hooks")
    return hooks


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
