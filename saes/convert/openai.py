"""OpenAI's GPT-2 SAEs: one pickled dictionary, read with ``weights_only=True``. TopK's inputs are layer-normalised."""

import re
from pathlib import Path
from typing import Any

from saes.activations import Activation, ReLU, TopK
from saes.convert.record import Record, imported
from saes.convert.weights import read_pickled_tensors, whole_number

_KNOWN = {"encoder.weight", "decoder.weight", "latent_bias", "pre_bias", "activation", "activation_state_dict"}
_KNOWN |= {"stats_last_nonzero"}  # of training
_LOCATION = re.compile(r"(resid_post_mlp|resid_post_attn|resid_delta_mlp|resid_delta_attn|mlp_post_act)(_v\d.*)?")
_HOOKS = {
    "resid_post_mlp": "hook_resid_post",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "mlp_post_act": "mlp.hook_post",
}


def recognises(folder: Path) -> bool:
    """Whether ``folder`` is such a file, or holds exactly one ``.pt`` file and no configuration."""
    return _file(folder) is not None


def _file(folder: Path) -> Path | None:
    if folder.is_file() and folder.suffix == ".pt":
        return folder
    files = list(folder.glob("*.pt")) if folder.is_dir() and not (folder / "config.json").exists() else []
    return files[0] if len(files) == 1 else None


def read(folder: Path) -> Record:
    """Their TopK SAE, which takes each activation minus its mean, over its deviation, or their ReLU one of plain ones.

    The file does not say so: their loader goes by the activation's name, too.
    """
    path = _file(folder)
    assert path is not None
    found = read_pickled_tensors(path)
    if unknown := sorted(set(found) - _KNOWN):
        raise ValueError(f"{path}: no rule of OpenAI's SAEs uses {', '.join(map(str, unknown))}, which the file holds")
    weights = {
        "W_enc": found["encoder.weight"].T.contiguous(),
        "W_dec": found["decoder.weight"].T.contiguous(),
        "b_enc": found["latent_bias"],
        "b_dec": found["pre_bias"],
    }
    activation = _activation(found, path)
    layer_norm = isinstance(activation, TopK)
    return Record(activation=activation, weights=weights, where=path, layer_norm=layer_norm, **_place(path.resolve()))


def _place(path: Path) -> dict[str, Any]:
    """Site and provenance from their paths, ``gpt2-small/resid_post_mlp_v5_32k/autoencoders/6.pt``."""
    location = next((found[1] for part in path.parts if (found := _LOCATION.fullmatch(part))), None)
    if location is None or not path.stem.isdigit():
        place = "its path is not as theirs are, resid_post_mlp_v5_32k/autoencoders/6.pt"
        return {"provenance": imported("openai", place=place)}
    site = f"blocks.{int(path.stem)}.{_HOOKS[location]}"
    return {"site": site, "provenance": imported("openai", model="gpt2", text={"context": 64, "bos": "never"})}


def _activation(found: dict[str, Any], path: Path) -> Activation:
    options = found.get("activation_state_dict", {})
    name, after = found.get("activation", "ReLU"), options.get("postact_fn", "ReLU")
    if name not in ("ReLU", "TopK") or after != "ReLU":
        raise ValueError(f"{path}: the activation {name!r} followed by {after!r} has no counterpart here")
    return TopK(whole_number(options["k"], name="k", where=path)) if name == "TopK" else ReLU()
