"""Runs in lxt's environment: gradients of a logit difference under its rules, for the models in a folder.

``lxt`` patches classes, for good; so every map runs in a process of its own.
"""

import importlib
import multiprocessing
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# lxt brings a torchvision that is built for CUDA, and that a CPU torch cannot load; transformers would try.
sys.modules["torchvision"] = None
from transformers import AutoModelForCausalLM  # noqa: E402

# The package's __init__ imports every family that lxt has, also those of vision libraries. These do without.
package = types.ModuleType("lxt.efficient.models")
package.__path__ = [str(Path(path) / "efficient" / "models") for path in importlib.import_module("lxt").__path__]
package.get_default_map = None
sys.modules["lxt.efficient.models"] = package
from lxt.efficient.patches import patch_cp_attention  # noqa: E402


def maps(family: str) -> dict[str, tuple[object, dict]]:
    """The module of a family in transformers, and lxt's maps: its own two, and AttnLRP with constant patterns."""
    found = importlib.import_module(f"lxt.efficient.models.{family}")
    module = getattr(found, f"modeling_{family}")
    return {
        "attnLRP": found.attnLRP,
        "cp_LRP": found.cp_LRP,
        "attnLRP, constant patterns": found.attnLRP | {module: patch_cp_attention},
    }


def gradients(work: Path, family: str, name: str) -> None:
    for target, patch in maps(family)[name].items():
        assert patch(target), target
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(work / family, attn_implementation="eager").eval()
    embedded = model.get_input_embeddings()(load_file(work / "tokens.safetensors")["tokens"]).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits
    (gradient,) = torch.autograd.grad((logits[:, -1, 3] - logits[:, -1, 11]).sum(), [embedded])
    save_file({"gradient": gradient.contiguous()}, work / f"{family}, {name}.safetensors")


if __name__ == "__main__":
    work = Path(sys.argv[1])
    for config in work.glob("*/config.json"):
        for name in maps(config.parent.name):
            process = multiprocessing.get_context("fork").Process(
                target=gradients, args=(work, config.parent.name, name)
            )
            process.start()
            process.join()
            assert process.exitcode == 0, (config.parent.name, name)
