"""Runs in SAELens's environment: what it computes with our SAEs, and SAEs that it wrote itself."""

import json
from pathlib import Path

import torch
from sae_lens import SAE, TrainingSAE
from worker_io import D_IN, D_OUT, D_SAE, THRESHOLD, K, exchange, randomise

SAES = {
    "standard": {},
    "topk": {"k": K},
    "topk, rescaled by decoder norms": {"k": K, "rescale_acts_by_decoder_norm": True},
    "topk, layer_norm": {"k": K, "normalize_activations": "layer_norm"},
    "jumprelu": {},
    "jumprelu, b_dec not subtracted": {"apply_b_dec_to_input": False},
    "gated": {},
    "abstopk": {"k": K},
    "matching_pursuit": {},
}
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
TRAINED = {
    "standard": {},
    "topk": {"k": K},
    "jumprelu": {},
    "gated": {},
    "batchtopk": {"k": float(K)},
    "matryoshka_batchtopk": {"k": float(K), "matryoshka_widths": [128, 512, D_SAE]},
}


def write_all(theirs: Path) -> None:
    widths = {"d_in": D_IN, "d_sae": D_SAE}
    for name, options in SAES.items():
        sae = SAE.from_dict({"architecture": name.split(",")[0]} | widths | options)
        save(sae, theirs / name)
    for name in TRANSCODERS:
        options = {"d_out": D_OUT, "apply_b_dec_to_input": False}
        save(SAE.from_dict({"architecture": name} | widths | options), theirs / name)
    for name, options in TRAINED.items():
        sae = TrainingSAE.from_dict({"architecture": name} | widths | options)
        randomise(sae)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(THRESHOLD)
        sae.save_inference_model(theirs / f"{name}, trained")
        if name == "batchtopk":
            sae.save_model(theirs / f"{name}, in training")
    write_as_before_6(theirs / "topk", theirs / "topk, before version 6")


def save(sae: SAE, folder: Path) -> None:
    randomise(sae)
    sae.save_model(folder)


def write_as_before_6(modern: Path, old: Path) -> None:
    """By hand, as version 6 cannot write it any more; it still reads it."""
    config = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "hook_name": "blocks.3.hook_resid_post"}
    config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": "none"}
    old.mkdir()
    (old / "cfg.json").write_text(json.dumps(config))
    (old / "sae_weights.safetensors").write_bytes((modern / "sae_weights.safetensors").read_bytes())


def compute(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kind = TrainingSAE if folder.name.endswith("in training") else SAE
    sae = kind.load_from_disk(folder)
    return sae.encode(x), sae(x)


exchange(compute, write_all)
