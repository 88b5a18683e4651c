"""Every site recomputed by hand: the equations of the families' papers and code, on the weights of a plain model.

Nothing here calls a block, an attention or a norm of Hugging Face, nor anything of ours; the test also compares the
logits that come out with the model's own, so that an error of the oracle would show.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu


def recompute(model: Any, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """All named sites by TransformerLens name, and the logits."""
    family = model.config.model_type
    gpt2, neox, gemma = family == "gpt2", family == "gpt_neox", family.startswith("gemma")
    base = model.base_model
    blocks = base.h if gpt2 else base.layers
    positions = torch.arange(tokens.shape[1])[None]
    x = (base.wte if gpt2 else base.embed_in if neox else base.embed_tokens).weight[tokens]
    sites: dict[str, Tensor] = {}
    if gemma:  # its embedding multiplies itself
        x = x * model.config.hidden_size**0.5
    sites["hook_embed"] = x
    if gpt2:
        sites["hook_pos_embed"] = base.wpe.weight[positions.expand(len(tokens), -1)]
        x = x + sites["hook_pos_embed"]

    for layer, block in enumerate(blocks):
        at = f"blocks.{layer}."
        if gpt2:
            norms, attn = (block.ln_1, block.ln_2), block.attn
        elif neox:
            norms, attn = (block.input_layernorm, block.post_attention_layernorm), block.attention
        elif gemma:
            norms, attn = (block.input_layernorm, block.pre_feedforward_layernorm), block.self_attn
        else:
            norms, attn = (block.input_layernorm, block.post_attention_layernorm), block.self_attn
        sites[at + "hook_resid_pre"] = x
        normed, sites[at + "ln1.hook_scale"], sites[at + "ln1.hook_normalized"] = _norm(norms[0], x, gemma)
        attended = _attention(model, attn, layer, normed, positions, sites)
        if gemma:
            attended, *_ = _norm(block.post_attention_layernorm, attended, gemma)
        sites[at + "hook_attn_out"] = attended
        mid = x + attended
        if not (neox and model.config.use_parallel_residual):
            sites[at + "hook_resid_mid"] = mid
            entering = mid
        else:
            entering = x
        normed, sites[at + "ln2.hook_scale"], sites[at + "ln2.hook_normalized"] = _norm(norms[1], entering, gemma)
        sites[at + "mlp.hook_in"] = normed
        mlp = block.mlp
        if gpt2:
            gate = _conv1d(mlp.c_fc, normed)
            post = gelu(gate, approximate="tanh")
            out = _conv1d(mlp.c_proj, post)
        elif neox:
            gate = _linear(mlp.dense_h_to_4h, normed)
            post = gelu(gate)
            out = _linear(mlp.dense_4h_to_h, post)
        else:
            gate = _linear(mlp.gate_proj, normed)
            post = (gelu(gate, approximate="tanh") if gemma else silu(gate)) * _linear(mlp.up_proj, normed)
            out = _linear(mlp.down_proj, post)
        if gemma:
            out, *_ = _norm(block.post_feedforward_layernorm, out, gemma)
        sites[at + "mlp.hook_pre"] = gate
        sites[at + "mlp.hook_post"], sites[at + "hook_mlp_out"] = post, out
        x = mid + out
        sites[at + "hook_resid_post"] = x

    final = base.ln_f if gpt2 else base.final_layer_norm if neox else base.norm
    normed, sites["ln_final.hook_scale"], sites["ln_final.hook_normalized"] = _norm(final, x, gemma)
    logits = _linear(model.get_output_embeddings(), normed)
    if cap := getattr(model.config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    sites["logits"] = logits
    return sites, logits


def _attention(model: Any, attn: Any, layer: int, x: Tensor, positions: Tensor, sites: dict[str, Tensor]) -> Tensor:
    config, at = model.config, f"blocks.{layer}.attn."
    heads = config.num_attention_heads
    if config.model_type == "gpt2":
        q, k, v = (part.unflatten(-1, (heads, -1)) for part in _conv1d(attn.c_attn, x).chunk(3, -1))
    elif config.model_type == "gpt_neox":
        q, k, v = _linear(attn.query_key_value, x).unflatten(-1, (heads, -1)).chunk(3, -1)
    else:
        q, k, v = (
            _linear(part, x).unflatten(-1, (-1, attn.head_dim)) for part in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
    sites[at + "hook_q"], sites[at + "hook_k"], sites[at + "hook_v"] = q, k, v

    sliding = config.layer_types[layer] == "sliding_attention" if getattr(config, "layer_types", None) else False
    if config.model_type == "gemma3_text":
        q, k = _norm(attn.q_norm, q, True)[0], _norm(attn.k_norm, k, True)[0]
        sites[at + "q_norm.hook_out"], sites[at + "k_norm.hook_out"] = q, k
    if config.model_type != "gpt2":
        rope = config.rope_parameters
        rope = rope[config.layer_types[layer]] if config.model_type == "gemma3_text" else rope
        rotated = int(q.shape[-1] * (rope.get("partial_rotary_factor") or 1.0))
        q, k = (_rotate(part, positions, rotated, rope["rope_theta"]) for part in (q, k))
    k, v = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (k, v))

    scale = getattr(config, "query_pre_attn_scalar", q.shape[-1]) ** -0.5
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if cap := getattr(config, "attn_logit_softcapping", None):
        scores = cap * torch.tanh(scores / cap)
    query, key = positions.T, positions
    hidden = (key > query) | ((key <= query - config.sliding_window) if sliding else torch.tensor(False))
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    pattern = scores.softmax(-1)
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
    sites[at + "hook_attn_scores"], sites[at + "hook_pattern"], sites[at + "hook_z"] = scores, pattern, z
    if config.model_type == "gpt2":
        weight = attn.c_proj.weight
    else:
        weight = (attn.dense if config.model_type == "gpt_neox" else attn.o_proj).weight.T
    sites[at + "hook_result"] = torch.einsum("bqhd,hdm->bqhm", z, weight.unflatten(0, (heads, -1)))
    if config.model_type == "gpt2":
        return _conv1d(attn.c_proj, z.flatten(-2))
    return _linear(attn.dense if config.model_type == "gpt_neox" else attn.o_proj, z.flatten(-2))


def _rotate(x: Tensor, positions: Tensor, rotated: int, theta: float) -> Tensor:
    """Rotary embedding of the first ``rotated`` dimensions, dimension i paired with i + rotated / 2."""
    half = rotated // 2
    angle = positions[..., None] * torch.exp(-math.log(theta) * torch.arange(half) * 2 / rotated)
    cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
    a, b = x[..., :half], x[..., half:rotated]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., rotated:]], -1)


def _norm(norm: Any, x: Tensor, gemma: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A norm's output, what it divided by, and the output before the gain."""
    layer_norm = getattr(norm, "bias", None) is not None
    centred = x - x.mean(-1, keepdim=True) if layer_norm else x
    eps = norm.eps if layer_norm or gemma else norm.variance_epsilon
    scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    out = centred / scale * (1 + norm.weight if gemma else norm.weight)
    return (out + norm.bias if layer_norm else out), scale, centred / scale


def _linear(module: Any, x: Tensor) -> Tensor:
    out = x @ module.weight.T
    return out if module.bias is None else out + module.bias


def _conv1d(module: Any, x: Tensor) -> Tensor:
    return x @ module.weight + module.bias
