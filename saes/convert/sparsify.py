"""EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``; TopK alone, transcoders and skip connections too."""

from pathlib import Path
from typing import Any

from interp.files.outside import read_json
from interp.files.tensor_files import write_tensors
from interp.files.writing import write_json
from saes.activations import TopK
from saes.convert.record import OURS, Record, imported, ours
from saes.convert.site_names import of_hook, of_module
from saes.convert.weights import check_sizes, check_skip, read_safetensors, renamed, text, whole_number

_WEIGHTS, _CONFIG = "sae.safetensors", "cfg.json"
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def recognises(folder: Path) -> bool:
    """Whether a sparsify SAE is there."""
    return (folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()


def read(folder: Path) -> Record:
    """One hookpoint's folder."""
    config = read_json(folder / _CONFIG)
    if config.get("activation", "topk") != "topk":
        raise ValueError(f"{folder}: sparsify's activation {config['activation']!r} has no counterpart here")
    if config.get("signed"):
        raise ValueError(f"{folder}: its latents are signed (the k largest of either sign), which ours never are")
    weights = renamed(read_safetensors(folder / _WEIGHTS), _NAMES, where=folder)
    weights["W_enc"] = weights["W_enc"].T
    check_sizes(weights, d_in=config.get("d_in"), d_sae=config.get("num_latents"), where=folder)
    for option in ("skip_connection", "transcode"):
        if type(config.get(option, False)) is not bool:
            raise ValueError(f"{folder}: {option} is {config[option]!r}; it must be true or false")
    skip = config.get("skip_connection", False)
    check_skip(weights, skip, said=f"skip_connection is {skip}", where=folder)
    return Record(
        activation=TopK(whole_number(config["k"], name="k", where=folder)),
        weights=weights,
        where=folder,
        subtract_b_dec=not config.get("transcode", False),
        **_place(folder, config),
    )


def _place(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Site, target site and provenance, from what we wrote or from the folder's name, a path of Hugging Face's.

    sparsify's SAEs are of a module's output; its transcoders lead from the module's input to its output.
    """
    above = _config_above(folder)
    model, context = text(above.get("model")), above.get("ctx_len")
    transcoder = bool(config.get("transcode", False))
    kept = config.get(OURS)
    facts = {"ours": kept, "config": config, "model": model, "transcoder": transcoder}
    if type(context) is int and context > 0:
        facts["text"] = {"context": context}
    if isinstance(kept, dict):
        site, target = of_hook(kept.get("site")), of_hook(kept.get("target_site"))
        return {"site": site, "target_site": target, "provenance": imported("sparsify", **facts)}
    output = of_module(folder.name, "output", model=model)
    site = of_module(folder.name, "input", model=model) if transcoder else output
    if site is None or output is None:
        what = "whose input and output are sites" if transcoder else "whose output is a site"
        facts["place"] = f"its folder's name, {folder.name!r}, is the path of no module {what}"
    else:
        facts["module"] = folder.name
    target = output if transcoder else None
    return {"site": site, "target_site": target, "provenance": imported("sparsify", **facts)}


def _config_above(folder: Path) -> dict[str, Any]:
    """What sparsify says once for all SAEs of a run; nothing where it is not there, or not readable."""
    try:
        return read_json(folder.resolve().parent / "config.json")
    except ValueError:
        return {}


def write(sae: Record, folder: Path) -> None:
    """Write for sparsify.

    Raises:
        ValueError: any variant but TopK, transcoders whose output has another width than their input, ``layer_norm``.
    """
    if not isinstance(sae.activation, TopK):
        raise ValueError(f"sparsify holds TopK alone, not {sae.activation.name}")
    if sae.d_out != sae.d_in:
        raise ValueError(f"sparsify's output is as wide as its input; here they are {sae.d_out} and {sae.d_in}")
    if sae.layer_norm:
        raise ValueError("sparsify does not layer-normalise its input; this SAE does")
    weights = dict(sae.weights)
    renamed = {"encoder.weight": weights.pop("W_enc").T.contiguous(), "encoder.bias": weights.pop("b_enc"), **weights}
    write_tensors(folder / _WEIGHTS, renamed)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.activation.k,
        "multi_topk": False,
        "skip_connection": sae.skip,
        "transcode": not sae.subtract_b_dec,
        "d_in": sae.d_in,
        OURS: ours(sae),
    }
    write_json(folder / _CONFIG, config)
