"""Dictionaries over several places of other tools, written by hand, with what the tool's own loader computes from them.

Weights are made to explain the tensors of a tiny model that each dictionary lies between, as in ``tests.saes.convert``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.places import Layout
from tests.saes.convert.by_hand import K, activations, explaining, save_json, save_tensors
from tests.tiny_models import LAYERS, WIDTH

GEMMA3, QWEN = "gemma-3-1b-pt", "Qwen3-1.7B-Base"
IN = [f"blocks.{layer}.mlp.hook_in" for layer in range(LAYERS)]
OUT = [f"blocks.{layer}.hook_mlp_out" for layer in range(LAYERS)]
RESIDUAL = [f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS)]
GEMMA_IN = [f"layers.{layer}.pre_feedforward_layernorm.output" for layer in range(LAYERS)]
GEMMA_OUT = [f"layers.{layer}.post_feedforward_layernorm.output" for layer in range(LAYERS)]
MLP = [[f"layers.{layer}.mlp.{side}" for layer in range(LAYERS)] for side in ("input", "output")]
BLOCKS = [f"layers.{layer}.output" for layer in range(LAYERS)]
NORMS = (5.5, 7.5, 2.25)
"""Mean norms of three places, as files say them."""

Weights = dict[str, Tensor]
Tensors = dict[str, Tensor]
Scales = Sequence[tuple[float, float]]
Computed = tuple[list[Tensor], list[Tensor]]
"""Dense latents of every part, and the output at every place written."""


@dataclass(frozen=True, kw_only=True)
class Several:
    """Files of one kind, and what is true of them."""

    model: str
    reads: list[str]
    """Tensors of the plain model."""
    writes: list[str]
    layout: tuple[str, list[str], list[str]]
    """Kind, sites read, sites written."""
    write: Callable[[Path, list[Weights]], Path]
    compute: Callable[[list[Weights], list[Tensor]], Computed]
    scales: Sequence[tuple[float, float]] = field(default_factory=lambda: [(1.0, 1.0)] * LAYERS)
    """Of inputs and outputs that the weights are made for."""
    latents_times_norms: bool = False

    def between(self) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and targets."""
        found = activations(self.model)
        return [found[name] for name in self.reads], [found[name] for name in self.writes]

    def weights(self) -> list[Weights]:
        """Of every layer: one that explains its own output, and small decoders to all layers, ``W_dec_to``."""
        generator, made = torch.Generator().manual_seed(9), []
        for x, y, (scale, target_scale) in zip(*self.between(), self.scales, strict=True):
            w = explaining(x * scale, y * target_scale)
            size = w["W_dec"].std()
            w["W_dec_to"] = torch.randn(LAYERS, *w["W_dec"].shape, generator=generator) * 0.02 * size
            w["W_dec_to"][len(made)] = w["W_dec"]
            w["skip"] = torch.randn(WIDTH, WIDTH, generator=generator) * 0.01
            made.append(w)
        return made

    def fvu(self) -> list[float]:
        """Of all tokens at every place written, from the tool's own arithmetic and the plain model's tensors."""
        xs, ys = self.between()
        with torch.no_grad():
            outputs = self.compute(self.weights(), xs)[1]
        flat = [y.flatten(0, 1) for y in ys]
        return [
            float((y - output.flatten(0, 1)).square().sum() / (y - y.mean(0)).square().sum())
            for y, output in zip(flat, outputs, strict=True)
        ]


def several_table() -> str:
    """Markdown: a row for each layout."""
    rows = [["files", "kind", "reads", "writes"], ["---"] * 4]
    for name, layout in SEVERAL.items():
        kind, reads, writes = layout.layout
        shown = [f"`{places[0]}` and on" for places in (reads, writes)]
        rows.append([name, Layout(kind, tuple(reads), tuple(writes)).name, *shown])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def later(w: Weights, layer: int) -> Tensor:
    """[d_sae, layers, d], zero at earlier layers."""
    to = w["W_dec_to"].transpose(0, 1).clone()
    to[:, :layer] = 0
    return to


def gemma_scope(root: Path, ws: list[Weights], *, below: str, affine: bool = False) -> Path:
    folder = root / "gemma-scope-2-1b-pt" / below
    for layer, w in enumerate(ws):
        tensors = {"w_enc": w["W_enc"], "w_dec": later(w, layer)}
        tensors |= {name: w[name] for name in ("b_enc", "b_dec", "threshold")}
        if affine:
            tensors["affine_skip_connection"] = w["skip"]
        save_tensors(folder / f"params_layer_{layer}.safetensors", tensors)
    return folder


def of_gemma_scope(ws: list[Weights], xs: list[Tensor], *, affine: bool = False) -> Computed:
    """Their JumpReLUMultiLayerSAE, whose einsums run over all layers."""
    pre = [x @ w["W_enc"] + w["b_enc"] for w, x in zip(ws, xs, strict=True)]
    latents = [(p > w["threshold"]) * p.relu() for p, w in zip(pre, ws, strict=True)]
    out = [w["b_dec"] + (x @ w["skip"] if affine else 0) for w, x in zip(ws, xs, strict=True)]
    for source, (f, w) in enumerate(zip(latents, ws, strict=True)):
        to = later(w, source)
        out = [y + torch.einsum("...i,id->...d", f, to[:, target]) for target, y in enumerate(out)]
    return latents, out


def llamascopium_clt(root: Path, ws: list[Weights], *, act_fn: str, gated: bool) -> Path:
    folder = root / "clt_8x"
    tensors: Tensors = {"W_E": torch.stack([w["W_enc"] for w in ws]), "b_E": torch.stack([w["b_enc"] for w in ws])}
    for layer, w in enumerate(ws):
        tensors[f"W_D.{layer}"] = torch.stack([source["W_dec_to"][layer] for source in ws[: layer + 1]])
        tensors[f"b_D.{layer}"] = w["b_dec"]
    if act_fn == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = torch.stack([w["threshold"].log() for w in ws])
    for hooks in (IN, OUT):
        for hook, norm in zip(hooks, NORMS if hooks is IN else reversed(NORMS), strict=True):
            tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(norm)
    save_tensors(folder / "sae_weights.safetensors", tensors)
    said = {"sae_type": "clt", "d_model": WIDTH, "expansion_factor": 2, "act_fn": act_fn, "top_k": K}
    said |= {"sparsity_include_decoder_norm": gated, "norm_activation": "dataset-wise"}
    save_json(folder / "config.json", said | {"hook_points_in": IN, "hook_points_out": OUT})
    return folder


def gate(hidden: Tensor, w: Weights, act_fn: str) -> Tensor:
    latents = hidden * (hidden > (w["threshold"] if act_fn == "jumprelu" else 0))
    if act_fn == "topk":
        values, indices = latents.topk(K, dim=-1)
        latents = torch.zeros_like(latents).scatter(-1, indices, values)
    return latents


def of_llamascopium_clt(
    ws: list[Weights], xs: list[Tensor], *, act_fn: str, gated: bool, scales: Scales | None = None
) -> Computed:
    """Their CrossLayerTranscoder between its normalisation, by default of ``NORMS``, and the way back."""
    scales = CLT_SCALES if scales is None else scales
    latents, out = [], [torch.zeros_like(x) for x in xs]
    for layer, (w, x, (scale, _)) in enumerate(zip(ws, xs, scales, strict=True)):
        rows = w["W_dec_to"][layer:]
        norms = rows.square().sum(-1).sum(0).sqrt() if gated else torch.ones(len(w["b_enc"]))
        f = gate((x * scale @ w["W_enc"] + w["b_enc"]) * norms, w, act_fn) / norms
        latents.append(f)
        for target, to in enumerate(rows, start=layer):
            out[target] = out[target] + f @ to
    return latents, [(y + w["b_dec"]) / back for y, w, (_, back) in zip(out, ws, scales, strict=True)]


def llamascopium_crosscoder(root: Path, ws: list[Weights], *, act_fn: str = "relu", same_norms: bool = False) -> Path:
    folder = root / "crosscoder_8x"
    W_D = torch.stack([w["W_dec"] for w in ws])
    if same_norms:
        W_D = W_D / W_D.norm(dim=-1, keepdim=True)
    tensors: Tensors = {"W_E": torch.stack([w["W_enc"] for w in ws]), "W_D": W_D}
    tensors |= {f"b_{side}": torch.stack([w[f"b_{name}"] for w in ws]) for side, name in (("E", "enc"), ("D", "dec"))}
    if act_fn == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = ws[0]["threshold"].log()
    tensors |= {
        f"dataset_average_activation_norm.{hook}": torch.tensor(n) for hook, n in zip(RESIDUAL, NORMS, strict=True)
    }
    save_tensors(folder / "sae_weights.safetensors", tensors)
    said = {"sae_type": "crosscoder", "d_model": WIDTH, "expansion_factor": 2, "act_fn": act_fn, "top_k": K}
    save_json(folder / "config.json", said | {"hook_points": RESIDUAL, "norm_activation": "dataset-wise"})
    return folder


def of_llamascopium_crosscoder(
    ws: list[Weights],
    xs: list[Tensor],
    *,
    act_fn: str = "relu",
    same_norms: bool = False,
    scales: Scales | None = None,
) -> Computed:
    """Their CrossCoder: pre-activations of all places are added, and each place selects by its own decoder norms."""
    scales = RESIDUAL_SCALES if scales is None else scales
    pre = sum(x * scale @ w["W_enc"] + w["b_enc"] for w, x, (scale, _) in zip(ws, xs, scales, strict=True))
    out, latents = [], torch.zeros(0)
    for w, (_, back) in zip(ws, scales, strict=True):
        W_D = w["W_dec"] / w["W_dec"].norm(dim=-1, keepdim=True) if same_norms else w["W_dec"]
        norms = W_D.norm(dim=-1)
        latents = gate(pre * norms, ws[0], act_fn) / norms
        out.append((latents @ W_D + w["b_dec"]) / back)
    return [latents], out


def scales(norms: Sequence[float], targets: Sequence[float]) -> list[tuple[float, float]]:
    root = WIDTH**0.5
    return [(root / norm, root / target) for norm, target in zip(norms, targets, strict=True)]


CLT_SCALES, RESIDUAL_SCALES = scales(NORMS, NORMS[::-1]), scales(NORMS, NORMS)
_GEMMA: dict[str, Any] = {"model": GEMMA3, "reads": GEMMA_IN, "writes": GEMMA_OUT, "layout": ("clt", IN, OUT)}
_QWEN: dict[str, Any] = {"model": QWEN, "reads": MLP[0], "writes": MLP[1], "layout": ("clt", IN, OUT)}
_CROSSCODER: dict[str, Any] = {"model": QWEN, "reads": BLOCKS, "writes": BLOCKS, "scales": RESIDUAL_SCALES}
_LAYERS = "_".join(map(str, range(LAYERS)))

SEVERAL: dict[str, Several] = {
    "gemma_scope 2, clt": Several(
        **_GEMMA, write=partial(gemma_scope, below="clt/width_262k_l0_medium"), compute=of_gemma_scope
    ),
    "gemma_scope 2, clt with affine skip": Several(
        **_GEMMA,
        write=partial(gemma_scope, below="clt/width_262k_l0_medium_affine", affine=True),
        compute=partial(of_gemma_scope, affine=True),
    ),
    "gemma_scope 2, crosscoder": Several(
        **_GEMMA | {"reads": BLOCKS, "writes": BLOCKS, "layout": ("clt", RESIDUAL, RESIDUAL)},
        write=partial(gemma_scope, below=f"crosscoder/layer_{_LAYERS}_width_262k_l0_medium"),
        compute=of_gemma_scope,
    ),
    **{
        f"llamascopium, clt, {act_fn}{', by decoder norms' if gated else ''}": Several(
            **_QWEN,
            scales=CLT_SCALES,
            write=partial(llamascopium_clt, act_fn=act_fn, gated=gated),
            compute=partial(of_llamascopium_clt, act_fn=act_fn, gated=gated),
            latents_times_norms=act_fn == "topk" and gated,
        )
        for act_fn, gated in (("relu", True), ("jumprelu", False), ("jumprelu", True), ("topk", False), ("topk", True))
    },
    "llamascopium, crosscoder": Several(
        **_CROSSCODER,
        layout=("crosscoder", RESIDUAL, RESIDUAL),
        write=llamascopium_crosscoder,
        compute=of_llamascopium_crosscoder,
    ),
}


if __name__ == "__main__":
    print(several_table())
