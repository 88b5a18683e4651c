"""Runs in SAELens's environment: what its own loaders of published dictionaries make of files that we wrote by hand.

The folder has ``jobs.json``: name -> loader, repo_id and folder as SAELens names them, and where the repository's files
are. Nothing is fetched: the hub's client is replaced by that folder.
"""

import json
import sys
from pathlib import Path

import torch
from huggingface_hub.utils import EntryNotFoundError
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WORK = Path(sys.argv[1])
REPOSITORIES: dict[str, Path] = {}


def found(repo_id: str, filename: str, subfolder: str | None = None, **_options: object) -> str:
    path = REPOSITORIES[repo_id] / (subfolder or "") / filename
    if not path.is_file():
        raise EntryNotFoundError(str(path))
    return str(path)


def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
    with safe_open(found(repo_id, filename), framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


loaders.hf_hub_download = found
loaders.get_safetensors_tensor_shapes = shapes


def loaded(job: dict[str, object]) -> SAE:
    """As ``SAE.from_pretrained`` does it, with the widths of the files in place of the published ones."""
    REPOSITORIES[job["repo_id"]] = Path(job["at"])
    load = loaders.NAMED_PRETRAINED_SAE_LOADERS[job["loader"]]
    overrides = {"device": "cpu", "dtype": "float32", **job["overrides"]}
    config, state, _ = load(job["repo_id"], job["folder"], device="cpu", force_download=False, cfg_overrides=overrides)
    config = loaders.handle_config_defaulting(config)
    config["d_in"], config["d_sae"] = state["W_enc"].shape
    if "d_out" in config:
        config["d_out"] = state["W_dec"].shape[1]
    kind, config_kind = get_sae_class(config["architecture"])
    sae = kind(config_kind.from_dict(config))
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict({name: value.float().contiguous() for name, value in state.items()})
    if config.get("normalize_activations") == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(job["factor"])
    sae.turn_off_forward_pass_hook_z_reshaping()  # the inputs are vectors already
    return sae


torch.set_num_threads(1)
hooks = {}
for name, job in json.loads((WORK / "jobs.json").read_text()).items():
    sae = loaded(job)
    x = load_file(WORK / f"{job['number']}.x.safetensors")["x"]
    with torch.no_grad():
        save_file(
            {"latents": sae.encode(x).contiguous(), "output": sae(x).contiguous()},
            WORK / f"{job['number']}.safetensors",
        )
    hooks[name] = [sae.cfg.metadata.hook_name, sae.cfg.metadata.get("hook_name_out")]
(WORK / "hooks.json").write_text(json.dumps(hooks))
