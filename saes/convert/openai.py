"""OpenAI's GPT-2 SAEs: one pickled dictionary, read with ``weights_only=True``. TopK's inputs are layer-normalised."""

from pathlib import Path
from typing import Any

from saes.activations import Activation, ReLU, TopK
from saes.convert.record import Record
from saes.convert.weights import read_pickled_tensors, whole_number


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
    weights = {
        "W_enc": found["encoder.weight"].T.contiguous(),
        "W_dec": found["decoder.weight"].T.contiguous(),
        "b_enc": found["latent_bias"],
        "b_dec": found["pre_bias"],
    }
    activation = _activation(found, path)
    layer_norm = isinstance(activation, TopK)
    provenance = {"imported": {"format": "openai"}}
    return Record(activation=activation, weights=weights, where=path, layer_norm=layer_norm, provenance=provenance)


def _activation(found: dict[str, Any], path: Path) -> Activation:
    options = found.get("activation_state_dict", {})
    name, after = found.get("activation", "ReLU"), options.get("postact_fn", "ReLU")
    if name not in ("ReLU", "TopK") or after != "ReLU":
        raise ValueError(f"{path}: the activation {name!r} followed by {after!r} has no counterpart here")
    return TopK(whole_number(options["k"], name="k", where=path)) if name == "TopK" else ReLU()
