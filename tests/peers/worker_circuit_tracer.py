"""Runs in circuit-tracer's environment: what its loaders make of our files, and a CLT that it wrote itself.

The folder has ``jobs.json``: name -> its kind (gemma, clt or set), where its files are, and a number.
"""

import json
import sys
from pathlib import Path

import torch
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt, load_gemma_scope_2_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from safetensors.torch import load_file, save_file

WORK, OPTIONS = Path(sys.argv[1]), {"device": torch.device("cpu"), "dtype": torch.float32}
HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
torch.set_num_threads(1)


def files(folder: Path, name: str) -> dict[int, str]:
    return {i: str(folder / f"{name}_{i}.safetensors") for i in range(len(list(folder.glob(f"{name}_*.safetensors"))))}


def loaded(kind: str, folder: Path) -> torch.nn.Module:
    if kind == "gemma":
        paths = files(folder, "params_layer")  # of which version 0.5.0 leaves the last out
        return load_gemma_scope_2_clt(paths | {len(paths): paths[len(paths) - 1]}, **OPTIONS)
    if kind == "clt":
        return load_clt(str(folder), **OPTIONS)
    return load_transcoder_set(
        files(folder, "layer"), "scan", **HOOKS, **OPTIONS, lazy_encoder=False, lazy_decoder=False
    )


def computed(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Latents [layers, n, f] and outputs [layers, n, d]."""
    with torch.no_grad():
        if isinstance(model, CrossLayerTranscoder):
            latents = model.encode(x)
            return {"latents": latents.contiguous(), "outputs": model.decode(latents.to_sparse(), x).contiguous()}
        latents = [layer.encode(rows) for layer, rows in zip(model, x, strict=True)]
        outputs = [layer.decode(f, rows) for layer, f, rows in zip(model, latents, x, strict=True)]
        return {"latents": torch.stack(latents), "outputs": torch.stack(outputs)}


for job in json.loads((WORK / "jobs.json").read_text()).values():
    x = load_file(WORK / f"{job['number']}.x.safetensors")["x"]
    save_file(computed(loaded(job["kind"], Path(job["path"])), x), WORK / f"{job['number']}.safetensors")
own = CrossLayerTranscoder(3, 24, 8, activation_function="jump_relu", lazy_decoder=False, **OPTIONS)
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, parameter in own.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if "threshold" in name:
            parameter.abs_()
own.to_safetensors(str(WORK / "written"))
x = torch.randn(3, 16, 8, generator=generator)
save_file({"x": x, **computed(own, x)}, WORK / "written.safetensors")
