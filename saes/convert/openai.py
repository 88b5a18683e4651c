"""OpenAI's GPT-2 SAEs: one pickled dictionary, read with ``weights_only=True``. Inputs are layer-normalised first."""

from pathlib import Path

from saes.activations import Activation, ReLU, TopK
from saes.convert.weights import build, read_pickled_tensors, whole_number
from saes.sae import SAE


def recognises(folder: Path) -> bool:
    """Whether ``folder`` is such a file, or holds exactly one ``.pt`` file and no configuration."""
    return _file(folder) is not None


def _file(folder: Path) -> Path | None:
    if folder.is_file() and folder.suffix == ".pt":
        return folder
    files = list(folder.glob("*.pt")) if folder.is_dir() and not (folder / "config.json").exists() else []
    return files[0] if len(files) == 1 else None


def read(folder: Path) -> SAE:
    """Their TopK or ReLU SAE, of inputs (x - mean) / std of each token, as the published ones were trained on."""
    path = _file(folder)
    assert path is not None
    found = read_pickled_tensors(path)
    weights = {
        "W_enc": found["encoder.weight"].T.contiguous(),
        "W_dec": found["decoder.weight"].T.contiguous(),
        "b_enc": found["latent_bias"],
        "b_dec": found["pre_bias"],
    }
    name = str(found.get("activation", "ReLU"))
    activation: Activation = ReLU()
    if "topk" in name.lower():
        activation = TopK(whole_number(found["activation_state_dict"]["k"], name="k", where=path))
    note = "takes each token's activation minus its mean, divided by its standard deviation"
    return build(activation, weights, where=path, provenance={"imported": {"format": "openai", "input": note}})
