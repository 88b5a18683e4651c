"""Published dictionaries: files by hand, read by SAELens's own loaders and by ours (``make test-peers``)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.peers import made_python
from saes import SAE
from saes.convert.site_names import of_hook
from saes.publishing import identity_of, publish
from tests.saes.convert.by_hand import save_json
from tests.saes.convert.layouts import FACTOR, LAYER, PLACED, K

HERE = Path(__file__).parent
# Layout -> SAELens's loader, the repository's id, where its files lie below what we write, the folder or file.
LOADERS = {
    "gemma_scope, residual": (
        "gemma_2",
        "google/gemma-scope-2b-pt-res",
        "gemma-scope-2b-pt-res",
        f"layer_{LAYER}/width_16k/average_l0_71",
    ),
    "gemma_scope, attention": (
        "gemma_2",
        "google/gemma-scope-2b-pt-att",
        "gemma-scope-2b-pt-att",
        f"layer_{LAYER}/width_16k/average_l0_71",
    ),
    "gemma_scope, embedding": (
        "gemma_2",
        "google/gemma-scope-2b-pt-res",
        "gemma-scope-2b-pt-res",
        "embedding/width_4k/average_l0_6",
    ),
    "gemma_scope, transcoder": (
        "gemma_2_transcoder",
        "google/gemma-scope-2b-pt-transcoders",
        "gemma-scope-2b-pt-transcoders",
        f"layer_{LAYER}/width_16k/average_l0_76",
    ),
    **{
        f"gemma_scope 2, {kind}": (
            "gemma_3",
            "google/gemma-scope-2-1b-pt",
            "gemma-scope-2-1b-pt",
            f"{folder}/layer_{LAYER}_width_16k_{l0}",
        )
        for kind, folder, l0 in (
            ("resid_post", "resid_post", "l0_small"),
            ("attn_out_all", "attn_out_all", "l0_small"),
            ("mlp_out", "mlp_out", "l0_small"),
            ("transcoder", "transcoder_all", "l0_small"),
        )
    },
    "qwen_scope": (
        "qwen_scope",
        f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}",
        f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}",
        f"layer{LAYER}.sae.pt",
    ),
    "deepseek_r1": (
        "deepseek_r1",
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        ".",
        f"DeepSeek-R1-Distill-Llama-8B-SAE-l{LAYER}.pt",
    ),
    "hook_z (Kissane et al.)": (
        "connor_rob_hook_z",
        "ckkissane/attn-saes-gpt2-small-all-layers",
        ".",
        f"gpt2-small_L{LAYER}_Hcat_z.pt",
    ),
    "llama_scope": ("llama_scope", "fnlp/Llama3_1-8B-Base-LXR-8x", ".", f"Llama3_1-8B-Base-L{LAYER}R-8x"),
    "llama_scope, R1": (
        "llama_scope_r1_distill",
        "fnlp/Llama-Scope-R1-Distill",
        ".",
        f"800M-Slimpajama-0-OpenR1-Math-220k/L{LAYER}R",
    ),
    "dictionary_learning, SAEBench": (
        "dictionary_learning_1",
        "adamkarvonen/saebench",
        ".",
        f"resid_post_layer_{LAYER}/trainer_3",
    ),
    "circuit_tracer, config.yaml": (
        "mwhanna_transcoder",
        "mwhanna/qwen3-4b-transcoders",
        "mwhanna--qwen3-4b-transcoders",
        f"layer_{LAYER}.safetensors",
    ),
}
# Their name of the same tensor is another, or the tensor is: TransformerLens's hook_mlp_in lies before the norm.
OTHER_NAMES = {
    "gemma_scope, embedding": ["hook_embed", None],
    "gemma_scope 2, transcoder": [f"blocks.{LAYER}.hook_mlp_in", f"blocks.{LAYER}.hook_mlp_out"],
}


PUBLISHED = "what interp sae publish writes"


def _published(work: Path, number: int) -> dict[str, Any]:
    """A job of the folder that we publish, as SAELens loads it from the hub."""
    layout = PLACED["saelens, residual"]
    sae = SAE.load(layout.write(work / "unpublished", layout.weights()))
    figures = {name: {"value": 0.5, "standard_error": 0.1, "n": 9} for name in ("fvu", "l0", "ce_recovered_zero")}
    figures |= {"tokens": 100, "documents": 9, "sae": identity_of(sae)}
    inside = publish(sae, work / "published", evaluation=figures, license="mit", repo="me/mine")
    save_file({"x": layout.between()[0].flatten(0, 1).contiguous()}, work / f"{number}.x.safetensors")
    job = {"loader": "sae_lens", "repo_id": "me/mine", "at": str(inside.parent), "folder": inside.name}
    return job | {"number": number, "factor": 1.0, "path": str(inside), "overrides": {}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which SAELens has computed all of them."""
    python = made_python("saelens")
    if python is None:
        pytest.skip("make peers first: `make test-peers` (there is no environment of saelens)")
    work = tmp_path_factory.mktemp("loaders")
    jobs: dict[str, Any] = {}
    for number, (name, (loader, repo_id, at, folder)) in enumerate(LOADERS.items()):
        layout = PLACED[name]
        root = work / str(number)
        path = layout.write(root, layout.weights())
        if loader == "mwhanna_transcoder":
            sizes = {"d_model": 32, "d_feature": 64, "batch_size": 128}
            text = "".join(f"{key}:\n  value: {value}\n" for key, value in sizes.items())
            path.with_name("wandb-config.yaml").write_text(text)
        x = layout.between()[0].flatten(0, 1).contiguous()
        save_file({"x": x}, work / f"{number}.x.safetensors")
        jobs[name] = {"loader": loader, "repo_id": repo_id, "at": str(root / at), "folder": folder, "number": number}
        jobs[name] |= {"factor": FACTOR, "path": str(path), "overrides": {}}
        if loader == "gemma_2":  # which takes the width from the repository's name, and scales embeddings by it
            jobs[name]["overrides"] = {"d_in": x.shape[1]}
    jobs[PUBLISHED] = _published(work, len(LOADERS))
    save_json(work / "jobs.json", jobs)
    worker = subprocess.run(
        [str(python), str(HERE / "worker_saelens_loaders.py"), str(work)], capture_output=True, text=True
    )
    assert worker.returncode == 0, worker.stderr
    return work


@pytest.mark.peers
@pytest.mark.parametrize("name", [*LOADERS, PUBLISHED])
def test_saelens_reads_the_same(name: str, loaded: Path) -> None:
    job = json.loads((loaded / "jobs.json").read_text())[name]
    theirs = load_file(loaded / f"{job['number']}.safetensors")
    sae = SAE.load(job["path"])
    with torch.no_grad():
        x = load_file(loaded / f"{job['number']}.x.safetensors")["x"]
        torch.testing.assert_close(sae.encode(x).to_dense(), theirs["latents"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sae(x), theirs["output"], rtol=1e-5, atol=1e-5)
    hooks = json.loads((loaded / "hooks.json").read_text())[name]
    if name in OTHER_NAMES:
        assert hooks == OTHER_NAMES[name]
    else:
        assert [of_hook(hook) for hook in hooks] == [sae.site, sae.target_site]
