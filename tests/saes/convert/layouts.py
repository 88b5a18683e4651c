"""Every layout, by hand: a row each, which the tests of this folder run on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.saes.convert.by_hand import (
    LAYER,
    Computed,
    K,
    Layout,
    Weights,
    jumprelu,
    only,
    relu,
    save_json,
    save_pickle,
    save_tensors,
    topk,
)
from tests.tiny_models import HEADS, WIDTH

BLOCK = f"layers.{LAYER}"
RESID_POST = f"blocks.{LAYER}.hook_resid_post"
MLP_IN, MLP_OUT = f"blocks.{LAYER}.mlp.hook_in", f"blocks.{LAYER}.hook_mlp_out"
Z = f"blocks.{LAYER}.attn.hook_z"
NEOX, GEMMA2, GEMMA3, GPT2 = "pythia-70m", "gemma-2-2b", "gemma-3-1b-pt", "gpt2"


# sparsify


def sparsify(root: Path, w: Weights, *, hookpoint: str, above: dict[str, Any] | None = None, **config: Any) -> Path:
    folder = root / hookpoint
    defaults = {"activation": "topk", "num_latents": len(w["b_enc"]), "k": K, "d_in": len(w["W_enc"])}
    save_json(folder / "cfg.json", {"normalize_decoder": True, "expansion_factor": 2} | defaults | config)
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    save_tensors(folder / "sae.safetensors", tensors)
    if above is not None:
        save_json(root / "config.json", above)
    return folder


# SAELens


def saelens(root: Path, w: Weights, *, names: tuple[str, ...] = (), **config: Any) -> Path:
    defaults = {"d_in": len(w["W_enc"]), "d_sae": len(w["b_enc"]), "dtype": "float32", "device": "cpu"}
    if "metadata" in config:
        config["metadata"] = {"sae_lens_version": "6.54.12"} | config["metadata"]
        defaults |= {"normalize_activations": "none", "reshape_activations": "none", "apply_b_dec_to_input": False}
    save_json(root / "sae" / "cfg.json", defaults | config)
    save_tensors(root / "sae" / "sae_weights.safetensors", only(w, "W_enc", "W_dec", "b_enc", "b_dec", *names))
    return root / "sae"


def saelens_6(architecture: str, *, names: tuple[str, ...] = (), **metadata: Any) -> Callable[[Path, Weights], Path]:
    config = {"architecture": architecture, "metadata": metadata}
    if metadata.get("hook_name", "").endswith("hook_z") and "hook_head_index" not in metadata:
        config["reshape_activations"] = "hook_z"
    return partial(saelens, names=names, **config)


# Gemma Scope


def gemma_scope(root: Path, w: Weights, *, below: str) -> Path:
    folder = root / below
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in w.items()})
    return folder


def gemma_scope_2(root: Path, w: Weights, *, below: str, config: dict[str, Any] | None = None) -> Path:
    folder = root / below
    lower = {"W_enc": "w_enc", "W_dec": "w_dec"}
    save_tensors(folder / "params.safetensors", {lower.get(name, name): value for name, value in w.items()})
    if config is not None:
        save_json(folder / "config.json", {"architecture": "jump_relu"} | config)
    return folder


def rescaled(w: Weights, x: Tensor) -> Computed:
    """Gemma Scope's embedding SAEs, as SAELens loads them: b_dec stays."""
    scale = len(w["W_enc"]) ** 0.5
    return jumprelu(w | {"W_enc": w["W_enc"] / scale, "W_dec": w["W_dec"] * scale}, x)


# dictionary_learning


def dictionary_learning(root: Path, w: Weights, *, below: str = "trainer_0", **trainer: Any) -> Path:
    folder = root / below
    given = {"dict_class": "AutoEncoder", "activation_dim": len(w["W_enc"]), "dict_size": len(w["b_enc"])}
    save_json(folder / "config.json", {"trainer": given | trainer, "buffer": {"ctx_len": CONTEXT_SAID}})
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    tensors |= {"decoder.weight": w["W_dec"].T, "bias": w["b_dec"]}
    save_pickle(folder / "ae.pt", {name: value.contiguous() for name, value in tensors.items()})
    return folder


CONTEXT_SAID = 12
centred_topk, centred_relu = partial(topk, centred=True), partial(relu, centred=True)


# OpenAI


def openai(root: Path, w: Weights) -> Path:
    path = root / "gpt2-small" / "resid_post_mlp_v5_32k" / "autoencoders" / f"{LAYER}.pt"
    tensors = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    tensors |= {"latent_bias": w["b_enc"], "pre_bias": w["b_dec"]}
    save_pickle(path, {**tensors, "activation": "ReLU", "activation_state_dict": {}})
    return path


# Lone files


def lone(root: Path, w: Weights, *, path: str, names: dict[str, str], transposed: bool = True, **beside: Any) -> Path:
    """Our names -> theirs; matrices as torch.nn.Linear has them."""
    turned = {name: w[name].T if name.startswith("W_") and transposed else w[name] for name in names}
    save_pickle(root / path, {theirs: turned[ours].contiguous() for ours, theirs in names.items()})
    for name, content in beside.items():
        save_json((root / path).with_name(f"{Path(path).stem}_{name}.json"), content)
    return root / path


def linear(encoder: str, decoder: str) -> dict[str, str]:
    parts = {"enc": encoder, "dec": decoder}
    return {f"W_{a}": f"{b}.weight" for a, b in parts.items()} | {f"b_{a}": f"{b}.bias" for a, b in parts.items()}


PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}


# Llama Scope and Llamascopium

MEAN_NORM = 7.5
FACTOR = WIDTH**0.5 / MEAN_NORM
THRESHOLD = 0.05


def llama_scope(root: Path, w: Weights) -> Path:
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    tensors |= {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}
    folder = root / f"Llama3_1-8B-Base-L{LAYER}R-8x"
    save_tensors(folder / "checkpoints" / "final.safetensors", tensors)
    said = {"d_model": WIDTH, "d_sae": len(w["b_enc"]), "jump_relu_threshold": THRESHOLD, "hook_point_in": RESID_POST}
    save_json(folder / "hyperparams.json", said | {"dataset_average_activation_norm": {"in": MEAN_NORM}})
    return folder


def llama_scope_r1(root: Path, w: Weights) -> Path:
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    tensors |= {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}
    folder = root / "800M-Slimpajama-0-OpenR1-Math-220k" / f"L{LAYER}R"
    save_tensors(folder / "sae_weights.safetensors", tensors | {"log_jumprelu_threshold": w["threshold"].log()})
    said = {"d_model": WIDTH, "expansion_factor": 2, "hook_point_in": RESID_POST}
    save_json(folder / "config.json", said | {"dataset_average_activation_norm": {"in": MEAN_NORM}})
    return folder


def scaled(w: Weights, x: Tensor, *, threshold: float | None = None) -> Computed:
    """JumpReLU of activations times a constant; SAELens folds that into the weights and leaves the threshold."""
    taken = w if threshold is None else w | {"threshold": torch.full_like(w["threshold"], threshold)}
    latents, output = jumprelu(taken, x * FACTOR)
    return latents, output / FACTOR


OUT_NORM = 2.25


def llamascopium(root: Path, w: Weights, *, hooks: tuple[str, str], act_fn: str, norm_gated: bool, how: str) -> Path:
    folder = root / "layer1_8x_k40"
    tensors = {"W_E": w["W_enc"], "b_E": w["b_enc"], "W_D": w["W_dec"], "b_D": w["b_dec"]}
    if act_fn == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = w["threshold"].log()
    for hook, norm in zip(reversed(hooks), (OUT_NORM, MEAN_NORM), strict=True):
        tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(norm)
    save_tensors(folder / "sae_weights.safetensors", tensors)
    said = {"sae_type": "sae", "d_model": WIDTH, "expansion_factor": 2, "act_fn": act_fn, "top_k": K}
    said |= {"norm_activation": how, "sparsity_include_decoder_norm": norm_gated}
    save_json(folder / "config.json", said | {"hook_point_in": hooks[0], "hook_point_out": hooks[1]})
    return folder


def llamascopium_computes(w: Weights, x: Tensor, *, act_fn: str, norm_gated: bool, transcoder: bool) -> Computed:
    """Encode and decode of llamascopium's SparseAutoEncoder between its normalisation and the way back."""
    norms = w["W_dec"].norm(dim=1) if norm_gated else torch.ones(len(w["b_enc"]))
    hidden = (x * FACTOR @ w["W_enc"] + w["b_enc"]) * norms
    latents = hidden * (hidden > (w["threshold"] if act_fn == "jumprelu" else 0))
    if act_fn == "topk":
        values, indices = latents.topk(K, dim=-1)
        latents = torch.zeros_like(latents).scatter(-1, indices, values)
    latents = latents / norms
    back = WIDTH**0.5 / (OUT_NORM if transcoder else MEAN_NORM)
    return latents, (latents @ w["W_dec"] + w["b_dec"]) / back


# circuit-tracer


def circuit_tracer(root: Path, w: Weights, *, names: tuple[str, ...] = (), config: str | None = None) -> Path:
    tensors = only(w, *PLAIN, *names) | {"W_enc": w["W_enc"].T}
    if "threshold" in tensors:
        tensors["activation_function.threshold"] = tensors.pop("threshold")
    path = root / "mwhanna--qwen3-4b-transcoders" / f"layer_{LAYER}.safetensors"
    save_tensors(path, tensors)
    if config is not None:
        path.with_name("config.yaml").write_text(config)
    return path


def skip(w: Weights) -> Tensor:
    return torch.randn(len(w["b_dec"]), len(w["W_enc"]), generator=torch.Generator().manual_seed(7)) * 0.01


def skipping(compute: Callable[[Weights, Tensor], Computed], w: Weights, x: Tensor) -> Computed:
    latents, output = compute(w, x)
    return latents, output + x @ skip(w).T


_MLP = {"reads": f"{BLOCK}.mlp.input", "writes": f"{BLOCK}.mlp.output"}
_GEMMA_MLP = {
    "reads": f"{BLOCK}.pre_feedforward_layernorm.output",
    "writes": f"{BLOCK}.post_feedforward_layernorm.output",
}
_SCOPE_2 = "gemma-scope-2-1b-pt"

PLACED: dict[str, Layout] = {
    "sparsify, block": Layout(
        model=NEOX,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(sparsify, hookpoint=BLOCK),
        compute=centred_topk,
    ),
    "sparsify, mlp": Layout(
        model=NEOX,
        reads=f"{BLOCK}.mlp.output",
        site=MLP_OUT,
        write=partial(sparsify, hookpoint=f"{BLOCK}.mlp"),
        compute=centred_topk,
    ),
    "sparsify, attention": Layout(
        model=NEOX,
        reads=f"{BLOCK}.attention.output",
        site=f"blocks.{LAYER}.hook_attn_out",
        write=partial(sparsify, hookpoint=f"{BLOCK}.attention"),
        compute=centred_topk,
    ),
    "sparsify, GPT-2": Layout(
        model=GPT2,
        reads=f"h.{LAYER}.output",
        site=RESID_POST,
        write=partial(sparsify, hookpoint=f"h.{LAYER}"),
        compute=centred_topk,
    ),
    "sparsify, transcoder": Layout(
        model=NEOX,
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(sparsify, hookpoint=f"{BLOCK}.mlp", transcode=True, above={"model": f"EleutherAI/{NEOX}"}),
        compute=topk,
    ),
    "sparsify, transcoder, another folder": Layout(
        model=NEOX,
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(sparsify, hookpoint="downloaded", transcode=True),
        compute=topk,
        options=("--site", MLP_IN, "--target-site", MLP_OUT),
    ),
    "sparsify, Llama's self_attn": Layout(
        model="Llama-3.1-8B",
        reads=f"{BLOCK}.self_attn.output",
        site=f"blocks.{LAYER}.hook_attn_out",
        write=partial(sparsify, hookpoint=f"{BLOCK}.self_attn"),
        compute=centred_topk,
    ),
    "saelens, residual": Layout(
        model=NEOX,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=saelens_6("standard", hook_name=RESID_POST, model_name=NEOX),
        compute=relu,
    ),
    "saelens, hook_z": Layout(
        model=NEOX,
        reads=f"{BLOCK}.attention.dense.input",
        site=Z,
        write=saelens_6("standard", hook_name=Z, model_name=NEOX),
        compute=relu,
    ),
    "saelens, hook_z, before version 6": Layout(
        model=NEOX,
        reads=f"{BLOCK}.attention.dense.input",
        site=Z,
        write=partial(saelens, hook_point=Z, model_name=NEOX),
        compute=centred_relu,
    ),
    "saelens, a head": Layout(
        model=NEOX,
        reads=f"{BLOCK}.attention.dense.input",
        head=slice(2 * WIDTH // HEADS, 3 * WIDTH // HEADS),
        site=f"{Z}[2]",
        write=saelens_6("standard", hook_name=Z, model_name=NEOX, hook_head_index=2),
        compute=relu,
    ),
    "saelens, transcoder": Layout(
        model=NEOX,
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=saelens_6("transcoder", hook_name=MLP_IN, hook_name_out=MLP_OUT, model_name=NEOX),
        compute=relu,
    ),
    "saelens, transcoder without a target": Layout(
        model=NEOX,
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=saelens_6("transcoder", hook_name=MLP_IN, model_name=NEOX),
        compute=relu,
    ),
    "saelens, Gemma's transcoder": Layout(
        model=GEMMA3,
        **_GEMMA_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=saelens_6(
            "jumprelu_transcoder",
            names=("threshold",),
            hook_name=f"blocks.{LAYER}.hook_mlp_in",
            hf_hook_name=f"model.{BLOCK}.pre_feedforward_layernorm.output",
            hook_name_out=MLP_OUT,
            model_name=f"google/{GEMMA3}",
        ),
        compute=jumprelu,
    ),
    "dictionary_learning, layer": Layout(
        model=NEOX,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(dictionary_learning, layer=LAYER, lm_name=f"EleutherAI/{NEOX}"),
        compute=centred_relu,
    ),
    "dictionary_learning, SAEBench": Layout(
        model=GEMMA2,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(
            dictionary_learning,
            below=f"resid_post_layer_{LAYER}/trainer_3",
            layer=LAYER,
            lm_name=f"google/{GEMMA2}",
            submodule_name=f"resid_post_layer_{LAYER}",
        ),
        compute=centred_relu,
    ),
    "dictionary_learning, folder alone": Layout(
        model=NEOX,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(dictionary_learning, below=f"resid_post_layer_{LAYER}_checkpoints/trainer_3_step_100"),
        compute=centred_relu,
    ),
    "gemma_scope, residual": Layout(
        model=GEMMA2,
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(gemma_scope, below=f"gemma-scope-2b-pt-res/layer_{LAYER}/width_16k/average_l0_71"),
        compute=jumprelu,
    ),
    "gemma_scope, MLP": Layout(
        model=GEMMA2,
        reads=f"{BLOCK}.post_feedforward_layernorm.output",
        site=MLP_OUT,
        write=partial(
            gemma_scope, below=f"models--google--gemma-scope-2b-pt-mlp/snapshots/1/layer_{LAYER}/width_16k/average_l0_7"
        ),
        compute=jumprelu,
    ),
    "gemma_scope, attention": Layout(
        model=GEMMA2,
        reads=f"{BLOCK}.self_attn.o_proj.input",
        site=Z,
        write=partial(gemma_scope, below=f"gemma-scope-2b-pt-att/layer_{LAYER}/width_16k/average_l0_71"),
        compute=jumprelu,
    ),
    "gemma_scope, embedding": Layout(
        model=GEMMA2,
        reads="embed_tokens.output",
        site="blocks.0.hook_resid_pre",
        write=partial(gemma_scope, below="gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"),
        compute=rescaled,
        scale=WIDTH**-0.5,
    ),
    "gemma_scope, transcoder": Layout(
        model=GEMMA2,
        reads=f"{BLOCK}.normalised",
        writes=f"{BLOCK}.post_feedforward_layernorm.output",
        site=f"blocks.{LAYER}.ln2.hook_normalized",
        target_site=MLP_OUT,
        write=partial(gemma_scope, below=f"gemma-scope-2b-pt-transcoders/layer_{LAYER}/width_16k/average_l0_76"),
        compute=jumprelu,
    ),
    **{
        f"gemma_scope 2, {kind}": Layout(
            model=GEMMA3,
            reads=f"{BLOCK}.{module}",
            site=site,
            write=partial(gemma_scope_2, below=f"{_SCOPE_2}/{kind}/layer_{LAYER}_width_16k_l0_small"),
            compute=jumprelu,
        )
        for kind, module, site in (
            ("resid_post", "output", RESID_POST),
            ("attn_out_all", "self_attn.o_proj.input", Z),
            ("mlp_out", "post_feedforward_layernorm.output", MLP_OUT),
        )
    },
    "gemma_scope 2, transcoder": Layout(
        model=GEMMA3,
        **_GEMMA_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(gemma_scope_2, below=f"{_SCOPE_2}/transcoder_all/layer_{LAYER}_width_16k_l0_small"),
        compute=jumprelu,
    ),
    "gemma_scope 2, config.json": Layout(
        model=GEMMA3,
        **_GEMMA_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(
            gemma_scope_2,
            below="downloaded",
            config={
                "model_name": "gemma-v3-1b-pt",
                "hf_hook_point_in": f"model.{BLOCK}.pre_feedforward_layernorm.output",
                "hf_hook_point_out": f"model.{BLOCK}.post_feedforward_layernorm.output",
                "affine_connection": False,
            },
        ),
        compute=jumprelu,
    ),
    "openai": Layout(model=GPT2, reads=f"h.{LAYER}.output", site=RESID_POST, write=openai, compute=centred_relu),
    "gemma_scope 2, transcoder with affine skip": Layout(
        model=GEMMA3,
        **_GEMMA_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=lambda root, w: gemma_scope_2(
            root,
            w | {"affine_skip_connection": skip(w).T.contiguous()},
            below=f"{_SCOPE_2}/transcoder/layer_{LAYER}_width_16k_l0_big_affine",
        ),
        compute=partial(skipping, jumprelu),
    ),
    "goodfire": Layout(
        model="Llama-3.1-8B-Instruct",
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(
            lone,
            path=f"Llama-3.1-8B-Instruct-SAE-l{LAYER}.pth",
            names=linear("encoder_linear", "decoder_linear"),
        ),
        compute=relu,
    ),
    "deepseek_r1": Layout(
        model="DeepSeek-R1-Distill-Llama-8B",
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(lone, path=f"DeepSeek-R1-Distill-Llama-8B-SAE-l{LAYER}.pt", names=linear("encoder", "decoder")),
        compute=relu,
    ),
    "qwen_scope": Layout(
        model="Qwen3-1.7B-Base",
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=partial(lone, path=f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}/layer{LAYER}.sae.pt", names=PLAIN),
        compute=topk,
    ),
    "hook_z (Kissane et al.)": Layout(
        model=GPT2,
        reads=f"h.{LAYER}.attn.c_proj.input",
        site=Z,
        write=partial(
            lone,
            path=f"gpt2-small_L{LAYER}_Hcat_z.pt",
            names=PLAIN,
            transposed=False,
            cfg={"act_name": Z, "act_size": WIDTH, "dict_size": 2 * WIDTH},
        ),
        compute=centred_relu,
    ),
    "llama_scope": Layout(
        model="Llama-3.1-8B",
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=llama_scope,
        compute=partial(scaled, threshold=THRESHOLD * FACTOR),
        scale=FACTOR,
    ),
    "llama_scope, R1": Layout(
        model="Llama-3.1-8B",
        reads=f"{BLOCK}.output",
        site=RESID_POST,
        write=llama_scope_r1,
        compute=scaled,
        scale=FACTOR,
    ),
    **{
        f"llamascopium, {act_fn}{', by decoder norms' if norm_gated else ''}": Layout(
            model="Qwen3-1.7B-Base",
            reads=f"{BLOCK}.output",
            site=RESID_POST,
            write=partial(
                llamascopium,
                hooks=(RESID_POST, RESID_POST),
                act_fn=act_fn,
                norm_gated=norm_gated,
                how="dataset-wise",
            ),
            compute=partial(llamascopium_computes, act_fn=act_fn, norm_gated=norm_gated, transcoder=False),
            scale=FACTOR,
            latents_times_norms=act_fn == "topk" and norm_gated,
        )
        for act_fn in ("relu", "jumprelu", "topk")
        for norm_gated in (False, True)
    },
    "llamascopium, transcoder": Layout(
        model="Qwen3-1.7B-Base",
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(llamascopium, hooks=(MLP_IN, MLP_OUT), act_fn="topk", norm_gated=False, how="dataset-wise"),
        compute=partial(llamascopium_computes, act_fn="topk", norm_gated=False, transcoder=True),
        scale=FACTOR,
        target_scale=WIDTH**0.5 / OUT_NORM,
    ),
    "circuit_tracer, config.yaml": Layout(
        model="Qwen3-4B",
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(
            circuit_tracer,
            config="model_name: Qwen/Qwen3-4B\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
            "feature_output_hook: mlp.hook_out\n",
        ),
        compute=relu,
    ),
    "circuit_tracer, no configuration": Layout(
        model="Qwen3-4B",
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=partial(circuit_tracer, names=("threshold",)),
        compute=jumprelu,
    ),
    "circuit_tracer, skip": Layout(
        model="Qwen3-4B",
        **_MLP,
        site=MLP_IN,
        target_site=MLP_OUT,
        write=lambda root, w: circuit_tracer(root, w | {"W_skip": skip(w)}, names=("W_skip",)),
        compute=partial(skipping, relu),
    ),
}
"""Layouts whose files, folders or options say where they belong."""


def places_table() -> str:
    """Markdown: a row for each layout."""
    rows = [["files", "model", "reads", "gives"], ["---"] * 4]
    for name, layout in PLACED.items():
        said = " (by options)" if layout.options else ""
        rows.append([name, layout.model, f"`{layout.site}`{said}", f"`{layout.target_site or layout.site}`"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(places_table())
