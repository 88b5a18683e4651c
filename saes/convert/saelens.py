"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, which Neuronpedia loads too. Written as by version 6."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files.outside import read_json
from interp.files.tensor_files import write_tensors
from interp.files.writing import write_json
from saes.activations import Activation, Gated, JumpReLU, ReLU, TopK
from saes.convert.record import OURS, Record, imported, model_of, ours
from saes.convert.scale import checked_factor, fold_latent_scales, fold_whitening
from saes.convert.site_names import mlp_output_behind, of_hook, of_module, split_head
from saes.convert.weights import check_sizes, check_skip, read_safetensors, renamed, text, whole_number
from saes.published.releases import of_files

_WEIGHTS, _CONFIG = "sae_weights.safetensors", "cfg.json"
_SCALER, _WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
# BatchTopK and Matryoshka become JumpReLU with their threshold, as SAELens's own trainer saves them.
_ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka": "jumprelu",
    "gated": "gated",
}
_TRANSCODERS = {
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_NAMES = {"b_gate": "b_enc"}


def recognises(folder: Path) -> bool:
    """Whether an SAELens SAE is there (ours has the same file names, and says ``format``)."""
    return (
        (folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file() and "format" not in read_json(folder / _CONFIG)
    )


def read(folder: Path) -> Record:
    """Standard, TopK, JumpReLU (also what BatchTopK and Matryoshka are saved as), Gated, and transcoders."""
    config = read_json(folder / _CONFIG)
    if config.get("reshape_activations") not in ("none", None, "hook_z"):
        raise ValueError(f"{folder}: reshape_activations is {config['reshape_activations']!r}, not none or hook_z")
    architecture = config.get("architecture", "standard")
    activation = _activation(_TRANSCODERS.get(architecture, architecture), config, folder)
    weights = renamed(read_safetensors(folder / _WEIGHTS), _NAMES, where=folder)
    if config.get("rescale_acts_by_decoder_norm"):
        norms = weights["W_dec"].norm(dim=-1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    check_sizes(weights, d_in=config.get("d_in"), d_sae=config.get("d_sae"), where=folder)
    check_skip(weights, "skip" in str(architecture), said=f"architecture is {architecture!r}", where=folder)
    subtract_b_dec = bool(config.get("apply_b_dec_to_input", True)) and architecture not in _TRANSCODERS
    weights, factor = _of_raw_inputs(weights, config, folder, subtract_b_dec=subtract_b_dec)
    return Record(
        activation=activation,
        weights=weights,
        scales=(factor, factor),
        where=folder,
        subtract_b_dec=subtract_b_dec,
        layer_norm=config.get("normalize_activations") == "layer_norm",
        **_place(config, transcoder=architecture in _TRANSCODERS),
    )


def _of_raw_inputs(
    weights: dict[str, Tensor], config: dict[str, Any], folder: Path, *, subtract_b_dec: bool
) -> tuple[dict[str, Tensor], float]:
    """Weights of an SAE of raw activations, where those of the file are of normalised ones, up to a factor; and that.

    An SAE that SAELens finished has its normalisation folded already. One that was saved during training has it beside
    its weights; ``expected_average_only_in`` of versions before 6 often has it nowhere.
    """
    scales = weights.pop("scaling_factor", torch.ones(()))
    if (scales != 1).any():  # before version 6: latents were rescaled after training
        if config.get("finetuning_scaling_factor") is not True:
            raise ValueError(f"{folder}: it holds a scaling_factor, but finetuning_scaling_factor is not true")
        weights = fold_latent_scales(weights, scales)
    how = config.get("normalize_activations")
    published = of_files(folder)
    if published is not None and published.normalise is not None:
        how = published.normalise
    if how is True:  # before version 6
        how = "expected_average_only_in"
    if how in ("none", None, False, "layer_norm"):
        return weights, 1.0
    if how == "expected_average_only_in":
        if published is not None and published.factor is not None:
            return weights, checked_factor(published.factor, where=folder)
        if not (folder / _SCALER).is_file():
            raise ValueError(
                f"{folder}: normalize_activations is {config['normalize_activations']!r}: it takes activations times a"
                " constant, the root of d_in over their mean norm in its training, which its files do not hold (there"
                f" is no {_SCALER})"
            )
        return weights, checked_factor(read_json(folder / _SCALER).get("scaling_factor"), where=folder / _SCALER)
    if how == "covariance_whitening":
        if not (folder / _WHITENING).is_file():
            raise ValueError(f"{folder}: it takes whitened activations, and there is no {_WHITENING} beside it")
        whitening = read_safetensors(folder / _WHITENING)
        return fold_whitening(weights, whitening, subtract_b_dec=subtract_b_dec, where=folder / _WHITENING), 1.0
    reason = "divides each activation by its own norm" if how == "constant_norm_rescale" else "is not known"
    raise ValueError(f"{folder}: normalize_activations is {how!r}, which {reason}: it has no counterpart here")


def _place(config: dict[str, Any], *, transcoder: bool) -> dict[str, Any]:
    """Sites and provenance. Before version 6 all of it stood at the top of the configuration.

    ``hf_hook_name`` comes first: ``hook_mlp_in`` is before the MLP's norm, but some who write it mean what is behind.
    """
    metadata = config.get("metadata") or {}

    def said(*names: str) -> Any:
        return next((at[name] for name in names for at in (metadata, config) if at.get(name) is not None), None)

    def place_of(module: Any, hook: Any, head: Any) -> str | None:
        whole = None if type(head) is int else of_module(module, model=model)
        return whole or of_hook(hook, head)

    model = text(said("model_name"))
    heads = said("hook_head_index", "hook_point_head_index"), said("hook_head_index_out", "hook_point_head_index_out")
    site = place_of(said("hf_hook_name"), said("hook_name", "hook_point"), heads[0])
    target = place_of(said("hf_hook_name_out"), said("hook_name_out", "hook_point_out"), heads[1])
    if transcoder and target is None:
        target = mlp_output_behind(site)
    place = None if site and (target or not transcoder) else "its configuration names no hook that is a site here"
    facts = {
        "ours": metadata.get(OURS),
        "config": config,
        "model": model,
        "transcoder": transcoder,
        "place": place,
        "text": _text(said, metadata),
    }
    return {"site": site, "target_site": target, "provenance": imported("saelens", **facts)}


def _text(said: Callable[..., Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """How the model was run in training, as ``saes.conditions`` reads it."""
    used: dict[str, Any] = {"context": said("context_size")}
    bos = said("prepend_bos")
    if bos is None and "sae_lens_version" not in metadata and said("hook_name", "hook_point"):
        bos = True  # before version 6, where it says nothing
    if isinstance(bos, bool):
        used["bos"] = "row" if bos else "never"
    special = said("exclude_special_tokens")
    used["drop_tokens" if isinstance(special, list) else "drop_special"] = special
    notes = []
    positions = said("seqpos_slice")
    if isinstance(positions, list) and positions and type(positions[0]) is int and len(positions) > 1:
        used["first_position"] = positions[0]
        if positions[1:] != [None] * len(positions[1:]):
            notes.append(f"it was trained on the positions {positions} of a row (start, stop, step) alone")
    options = said("model_from_pretrained_kwargs")
    for name, value in options.items() if isinstance(options, dict) else ():
        if name in ("dtype", "torch_dtype"):
            used["dtype"] = str(value).removeprefix("torch.")
        elif value is True:
            notes.append(f"the model of its training was loaded with {name}=True, which this one is not")
    return {name: value for name, value in (used | {"notes": notes}).items() if value not in (None, [])}


def _activation(kind: str, config: dict[str, Any], folder: Path) -> Activation:
    before_6 = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if before_6 == "topk":
        return TopK(whole_number(config["activation_fn_kwargs"]["k"], name="k", where=folder))
    if before_6 != "relu":
        raise ValueError(f"{folder}: the activation {before_6!r}, of SAELens before version 6, has no counterpart here")
    if kind == "topk":
        return TopK(whole_number(config["k"], name="k", where=folder))
    simple: dict[str, Activation] = {"standard": ReLU(), "jumprelu": JumpReLU(), "gated": Gated()}
    if kind in ("batchtopk", "matryoshka_batchtopk"):
        raise ValueError(f"{folder}: this {kind} SAE is in training; read what save_inference_model wrote")
    if kind not in simple:
        raise ValueError(f"{folder}: SAELens's architecture {kind!r} has no counterpart here")
    return simple[kind]


def write(sae: Record, folder: Path) -> None:
    """Write for SAELens.

    Raises:
        ValueError: top-AFA, which SAELens computes differently; transcoders of TopK or Gated, or that subtract b_dec.
    """
    transcoder = sae.target_site is not None or sae.skip or sae.d_out != sae.d_in
    architecture = _architecture(sae, transcoder)
    weights = dict(sae.weights)
    if architecture == "gated":
        weights["b_gate"] = weights.pop("b_enc")
    if "threshold" in weights:
        weights["threshold"] = _rounded_down(weights["threshold"], sae.dtype).expand(sae.d_sae).contiguous()
    config = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": "layer_norm" if sae.layer_norm else "none",
        "reshape_activations": "hook_z" if _all_heads(sae.site) else "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            **_hook("", sae.site),
            **_hook("_out", sae.target_site),
            "model_name": model_of(sae),
            **_written_text(sae),
            OURS: ours(sae),
        },
    }
    if isinstance(sae.activation, TopK):
        config |= {"k": sae.activation.k, "rescale_acts_by_decoder_norm": False}
    if transcoder:
        config["d_out"] = sae.d_out
    write_tensors(folder / _WEIGHTS, weights)
    write_json(folder / _CONFIG, config)


def _hook(ending: str, site: str | None) -> dict[str, Any]:
    """A site as SAELens says it: the head's number apart."""
    name, head = split_head(site) if site else (None, None)
    return {f"hook_name{ending}": name} | ({} if head is None else {f"hook_head_index{ending}": head})


def _written_text(sae: Record) -> dict[str, Any]:
    """How the model was run in training, as SAELens says it."""
    source, imported_ = (sae.provenance.get(name) or {} for name in ("source", "imported"))
    used = imported_.get("text") or {}
    bos, first = source.get("bos", used.get("bos")), source.get("drop_first", used.get("first_position"))
    special = source.get("drop_special", used.get("drop_special", used.get("drop_tokens")))
    written = {
        "context_size": source.get("context", used.get("context")),
        "prepend_bos": None if bos in (None, "model") else bos != "never",
        "exclude_special_tokens": special or None,
        "seqpos_slice": [first, None] if first else None,
    }
    return {name: value for name, value in written.items() if value is not None}


def _all_heads(site: str | None) -> bool:
    """Whether its vectors are all heads' z, which SAELens brings into that shape only if told so."""
    return site is not None and site.endswith("hook_z")


def _architecture(sae: Record, transcoder: bool) -> str:
    name = sae.activation.name
    architecture = _ARCHITECTURES.get(name)
    if not transcoder and architecture is not None:
        return architecture
    if transcoder and sae.subtract_b_dec:
        raise ValueError(f"SAELens's transcoders subtract no b_dec from their input; this one, of {name}, does")
    skip = "skip_" if sae.skip else ""
    if transcoder and architecture in _TRANSCODERS.values():
        return f"{'jumprelu_' if architecture == 'jumprelu' else ''}{skip}transcoder"
    raise ValueError(
        f"SAELens cannot hold {'a transcoder of ' if transcoder else ''}{name}: its own of that name computes"
        " something else, or it has none"
    )


def _rounded_down(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """SAELens rounds thresholds to the weights' dtype. A number of that dtype exceeds a threshold exactly where it
    exceeds the threshold rounded down."""
    near = threshold.to(dtype)
    return torch.where(near.to(threshold.dtype) > threshold, near.nextafter(near.new_tensor(-torch.inf)), near)
