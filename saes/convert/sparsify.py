"""EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``; TopK alone, transcoders and skip connections too."""

from pathlib import Path

from interp.files.outside import read_json
from interp.files.tensor_files import write_tensors
from interp.files.writing import write_json
from saes.activations import TopK
from saes.convert.record import Record
from saes.convert.weights import read_safetensors, whole_number

_WEIGHTS, _CONFIG = "sae.safetensors", "cfg.json"


def recognises(folder: Path) -> bool:
    """Whether a sparsify SAE is there."""
    return (folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()


def read(folder: Path) -> Record:
    """One hookpoint's folder."""
    config = read_json(folder / _CONFIG)
    if config.get("activation", "topk") != "topk":
        raise ValueError(f"{folder}: sparsify's activation {config['activation']!r} has no counterpart here")
    weights = read_safetensors(folder / _WEIGHTS)
    weights["W_enc"] = weights.pop("encoder.weight").T.contiguous()
    weights["b_enc"] = weights.pop("encoder.bias")
    return Record(
        activation=TopK(whole_number(config["k"], name="k", where=folder)),
        weights=weights,
        where=folder,
        subtract_b_dec=not config.get("transcode", False),
        site=folder.name if "." in folder.name else None,
        provenance={"imported": {"format": "sparsify", "config": config}},
    )


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
    }
    write_json(folder / _CONFIG, config)
