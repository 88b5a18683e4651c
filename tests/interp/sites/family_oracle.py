"""Every site of every family, recomputed from what the plain Hugging Face modules take and give and from their weights.

Nothing of ours is used, neither the table of families nor a capture: the names of modules and the layouts stand here
again, from the families' own code. Values come from forward hooks on all modules, from ``output_hidden_states`` and
``output_attentions``, and from equations.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.pytorch_utils import Conv1D

_LLAMA = {
    "at": "model.layers", "embed": "model.embed_tokens", "final": "model.norm", "n1": "input_layernorm",
    "n2": "post_attention_layernorm", "attn": "self_attn", "qkv": "q_proj k_proj v_proj", "o": "o_proj", "mlp": "mlp",
    "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
}  # fmt: skip
_PLAIN_MLP = {"up": None}
_GPT = _LLAMA | _PLAIN_MLP | {
    "at": "transformer.h", "embed": "transformer.wte", "final": "transformer.ln_f", "n1": "ln_1", "n2": "ln_2",
    "attn": "attn", "gate": "c_fc", "down": "c_proj", "o": "c_proj", "qkv": "c_attn", "pos": "transformer.wpe",
}  # fmt: skip
_NEOX = _LLAMA | _PLAIN_MLP | {
    "at": "gpt_neox.layers", "embed": "gpt_neox.embed_in", "final": "gpt_neox.final_layer_norm", "attn": "attention",
    "qkv": "query_key_value", "o": "dense", "gate": "dense_h_to_4h", "down": "dense_4h_to_h",
}  # fmt: skip
_FALCON = _NEOX | {
    "at": "transformer.h", "embed": "transformer.word_embeddings", "final": "transformer.ln_f", "attn": "self_attention"
}  # fmt: skip
_GEMMA2 = _LLAMA | {
    "p1": "post_attention_layernorm", "n2": "pre_feedforward_layernorm", "p2": "post_feedforward_layernorm", "one": True
}  # fmt: skip
_OLMO2 = _LLAMA | {"n1": None, "n2": None, "p1": "post_attention_layernorm", "p2": "post_feedforward_layernorm"}
_NORMED = {"qn": "q_norm", "kn": "k_norm"}
_LAYER_NORMED = {"qn": "q_layernorm", "kn": "k_layernorm"}
_PHI = _LLAMA | _PLAIN_MLP | {"final": "model.final_layernorm", "n2": None, "o": "dense", "gate": "fc1", "down": "fc2"}
_GPTJ = _GPT | {"pos": None, "n2": None, "qkv": "q_proj k_proj v_proj", "o": "out_proj"}
_OPT = _LLAMA | _PLAIN_MLP | {
    "at": "model.decoder.layers", "embed": "model.decoder.embed_tokens", "pos": "model.decoder.embed_positions",
    "final": "model.decoder.final_layer_norm", "n1": "self_attn_layer_norm", "n2": "final_layer_norm", "o": "out_proj",
    "mlp": None, "gate": "fc1", "down": "fc2",
}  # fmt: skip
_GATE_UP = {"gate": "gate_up_proj", "up": "gate_up_proj"}

FACTS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neox": _NEOX,
    "gpt_neox_sequential": _NEOX,
    "llama": _LLAMA,
    "gemma": _LLAMA | {"one": True},
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA2 | _NORMED,
    "gemma3_mixed": _GEMMA2 | _NORMED,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | _NORMED,
    "smollm3": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _OLMO2 | _NORMED,
    "olmo3": _OLMO2 | _NORMED,
    "exaone4": _OLMO2 | _NORMED,
    "glm4": _LLAMA | _GATE_UP | {"p1": "post_self_attn_layernorm", "p2": "post_mlp_layernorm"},
    "granite": _LLAMA | {"times": 0.5, "embed_times": 3.0},
    "cohere": _LLAMA | {"n2": None},
    "cohere_normed": _LLAMA | _NORMED | {"n2": None},
    "stablelm": _LLAMA,
    "stablelm_parallel": _LLAMA | _LAYER_NORMED | {"n2": None},
    "starcoder2": _LLAMA | _PLAIN_MLP | {"gate": "c_fc", "down": "c_proj"},
    "phi": _PHI,
    "phi_normed": _PHI | _LAYER_NORMED,
    "phi3": _LLAMA | _GATE_UP | {"qkv": "qkv_proj"},
    "gptj": _GPTJ | {"gate": "fc_in", "down": "fc_out"},
    "gpt_neo": _GPT | {"attn": "attn.attention", "qkv": "q_proj k_proj v_proj", "o": "out_proj"},
    "opt": _OPT,
    "opt_post_norm": _OPT | {"final": None, "n1": None, "n2": None, "embed": "model.decoder.project_in"},
    "xglm": _OPT | {
        "at": "model.layers", "embed": "model.embed_tokens", "pos": "model.embed_positions", "final": "model.layer_norm"
    },
    "falcon_7b": _FALCON | {"n2": None},
    "falcon_40b": _FALCON | {"n1": "ln_attn", "n2": "ln_mlp"},
    "falcon_11b": _FALCON | {"n2": None},
    "falcon_1b": _FALCON,
    "mixtral": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3_moe": _LLAMA | _NORMED,
    "olmoe": _LLAMA | _NORMED,
    "gpt_oss": _LLAMA | {"router": "router"},
    "granitemoe": _LLAMA | {"times": 0.5, "embed_times": 3.0, "mlp": "block_sparse_moe", "router": "router"},
    "llama4_text": _LLAMA | {"mlp": "feed_forward", "router": "router"},
    "deepseek_v2": _LLAMA | {"qkv": "q_proj"},
    "deepseek_v3": _LLAMA | {"qkv": "q_b_proj"},
}  # fmt: skip
LATENT = ("deepseek_v2", "deepseek_v3")
PARALLEL = {"gpt_neox", "cohere", "cohere_normed", "stablelm_parallel", "phi", "phi_normed", "gptj"} | {
    "falcon_7b", "falcon_40b", "falcon_11b"
}  # fmt: skip


def recompute(case: str, model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """All named sites by name."""
    facts = FACTS[case]
    with torch.no_grad(), _watched(model) as (ins, outs, seen):
        # Falcon computes attention eagerly where it shows patterns.
        result = model(tokens, output_hidden_states=True, output_attentions=case != "falcon_1b", use_cache=False)
    batch = len(tokens)
    sites = {"logits": result.logits}
    sites["hook_embed"] = outs[facts["embed"]] * facts.get("embed_times", 1.0)
    if facts.get("pos"):
        sites["hook_pos_embed"] = outs[facts["pos"]].expand_as(sites["hook_embed"])
        torch.testing.assert_close(sites["hook_embed"] + sites["hook_pos_embed"], result.hidden_states[0])
    else:
        torch.testing.assert_close(sites["hook_embed"], result.hidden_states[0])
    for layer in range(model.config.num_hidden_layers):
        path, at = f"{facts['at']}.{layer}", f"blocks.{layer}."
        pre, post = result.hidden_states[layer], _first(outs[path])
        if layer + 1 < model.config.num_hidden_layers:
            torch.testing.assert_close(post, result.hidden_states[layer + 1])
        sites[at + "hook_resid_pre"], sites[at + "hook_resid_post"] = pre, post
        for name, norm in (("ln1", facts["n1"]), ("ln2", facts["n2"])):
            if norm:
                _norm_sites(model, f"{path}.{norm}", at + name, facts, ins, outs, sites, batch)
        pattern = result.attentions[layer] if result.attentions else None
        _attention(case, model, layer, facts, ins, outs, seen, pattern, sites)
        times = facts.get("times", 1.0)
        attended = _first(outs[f"{path}.{facts.get('p1') or facts['attn']}"]) * times
        sites[at + "hook_attn_out"] = attended
        mlp = f"{path}.{facts['mlp']}" if facts["mlp"] else path
        written = (
            outs[f"{path}.{facts['p2']}"] if facts.get("p2") else outs[mlp] if facts["mlp"] else outs[f"{mlp}.fc2"]
        )
        written = _rows(_first(written), batch) * times
        if case in PARALLEL:
            # Falcon adds attention to the MLP's output in place, behind the hook; what hooks saw was copied before.
            torch.testing.assert_close(pre + attended + written, post, atol=1e-4, rtol=1e-4)
        elif case != "opt_post_norm":
            mid = pre + attended
            torch.testing.assert_close(mid + written, post, atol=1e-4, rtol=1e-4)
            sites[at + "hook_resid_mid"] = mid
        else:
            mid = outs[f"{path}.self_attn_layer_norm"]
            torch.testing.assert_close(_rows(ins[f"{path}.fc1"], batch), mid)
            torch.testing.assert_close(_layer_norm(model, f"{path}.self_attn_layer_norm", pre + attended), mid)
            torch.testing.assert_close(_layer_norm(model, f"{path}.final_layer_norm", mid + written), post)
            sites[at + "hook_resid_mid"] = mid
        sites[at + "hook_mlp_out"] = written
        sites[at + "mlp.hook_in"] = _rows(ins[mlp] if facts["mlp"] else ins[f"{mlp}.fc1"], batch)
        if f"{mlp}.experts" in outs:
            _experts(case, model, mlp, at, facts, ins, outs, sites, batch)
        else:
            _neurons(model, mlp, at, facts, ins, sites, batch)
    if facts["final"]:
        _norm_sites(model, facts["final"], "ln_final", facts, ins, outs, sites, batch)
    return sites


def _attention(
    case: str, model: Any, layer: int, facts: Any, ins: Any, outs: Any, seen: Any, pattern: Any, sites: Any
) -> None:
    config, at = model.config, f"blocks.{layer}.attn."
    attn = f"{facts['at']}.{layer}.{facts['attn']}"
    module, x = model.get_submodule(attn), ins[attn]
    heads = config.num_attention_heads
    q, k, v = _latent(module, config, x) if case in LATENT else _projected(case, module, config, facts, x)
    sites[at + "hook_q"], sites[at + "hook_k"], sites[at + "hook_v"] = q, k, v
    if facts.get("qn"):
        sites[at + "q_norm.hook_out"] = _query_key_norm(case, module, facts["qn"], q, facts)
        sites[at + "k_norm.hook_out"] = _query_key_norm(case, module, facts["kn"], k, facts)
    if case == "falcon_1b":  # fused attention ran, which shows neither
        pattern = _own_scores(case, q, k).softmax(-1)
    else:
        sites[at + "hook_pattern"] = pattern
    if case not in ("gpt_oss", "falcon_1b"):
        scores = seen[attn] if attn in seen else _own_scores(case, q, k)
        torch.testing.assert_close(scores.softmax(-1), pattern)
        sites[at + "hook_attn_scores"] = scores
    values = v.repeat_interleave(heads // v.shape[2], dim=2)
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, values)
    torch.testing.assert_close(z.flatten(-2), ins[f"{attn}.{facts['o']}"])
    sites[at + "hook_z"] = z
    out = module.get_submodule(facts["o"])
    weight = out.weight if isinstance(out, Conv1D) else out.weight.T
    result = torch.einsum("bqhd,hdm->bqhm", z, weight.unflatten(0, (heads, -1)))
    bias = 0 if out.bias is None else out.bias
    torch.testing.assert_close(result.sum(2) + bias, outs[f"{attn}.{facts['o']}"], atol=1e-4, rtol=1e-4)
    sites[at + "hook_result"] = result


def _projected(case: str, module: Any, config: Any, facts: Any, x: Tensor) -> list[Tensor]:
    """Queries, keys and values ``[batch, position, head, d_head]``, head by head from the rows of the weights."""
    heads = config.num_attention_heads
    names = facts["qkv"].split()
    if len(names) == 3:
        return [_apply(module.get_submodule(name), x).unflatten(-1, (-1, _head_size(config))) for name in names]
    whole = _apply(module.get_submodule(names[0]), x)
    size = config.hidden_size // heads
    piece = [whole[..., i * size : (i + 1) * size] for i in range(whole.shape[-1] // size)]
    return [torch.stack([piece[i] for i in numbers], -2) for numbers in head_order(case, config)]


def head_order(case: str, config: Any) -> list[list[int]]:
    """Which heads of a fused projection's output are the queries, which the keys and which the values."""
    heads = config.num_attention_heads
    kv = {"phi3": 2, "falcon_7b": 1, "falcon_40b": 2, "falcon_11b": 2}.get(case, heads)
    if case in ("gpt2", "phi3", "falcon_7b"):  # all queries, all keys, all values
        return [[*range(heads)], [*range(heads, heads + kv)], [*range(heads + kv, heads + 2 * kv)]]
    step = heads // kv + 2  # of each key-value head its queries, its key, its value
    return [
        [group * step + i for group in range(kv) for i in range(step - 2)],
        [group * step + step - 2 for group in range(kv)],
        [group * step + step - 1 for group in range(kv)],
    ]


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _latent(module: Any, config: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads, nope, rope = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
    if config.q_lora_rank is None:
        q = linear(x, module.q_proj.weight)
    else:
        q = linear(_rms(linear(x, module.q_a_proj.weight), module.q_a_layernorm), module.q_b_proj.weight)
    small = linear(x, module.kv_a_proj_with_mqa.weight)
    both = linear(_rms(small[..., :-rope], module.kv_a_layernorm), module.kv_b_proj.weight).unflatten(-1, (heads, -1))
    shared = small[..., None, -rope:].repeat_interleave(heads, dim=-2)
    return q.unflatten(-1, (heads, nope + rope)), torch.cat([both[..., :nope], shared], -1), both[..., nope:]


def _rms(x: Tensor, norm: Any) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


def _query_key_norm(case: str, module: Any, name: str, x: Tensor, facts: Any) -> Tensor:
    norm = module.get_submodule(name)
    if case in ("olmo2", "olmo3", "olmoe"):  # over all heads at once
        return _rms(x.flatten(-2), norm).unflatten(-1, x.shape[-2:])
    if case in ("qwen3", "qwen3_moe", "exaone4"):
        return _rms(x, norm)
    if facts.get("one"):
        return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (1 + norm.weight)
    centred = x - x.mean(-1, keepdim=True)
    if case == "stablelm_parallel":  # a norm a head
        weight = torch.stack([part.weight for part in norm.norms])
        eps, bias = norm.norms[0].eps, 0
    else:
        weight, bias = norm.weight, getattr(norm, "bias", None)
        eps, bias = getattr(norm, "eps", getattr(norm, "variance_epsilon", None)), 0 if bias is None else bias
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def _own_scores(case: str, q: Tensor, k: Tensor) -> Tensor:
    """Scaled products and causal mask of XGLM; and of Falcon, with its rotary or linear biases."""
    heads, size, length = q.shape[2], q.shape[-1], q.shape[1]
    k = k.repeat_interleave(heads // k.shape[2], dim=2)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    if case == "falcon_1b":
        slopes = torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])
        bias = slopes[:, None, None] * torch.arange(length)
        scores = (torch.einsum("bqhd,bkhd->bhqk", q, k) + bias) / math.sqrt(size)
    elif case == "xglm":
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(size)
    else:
        half = size // 2
        angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(half) * 2 / size)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        q, k = (
            torch.cat([y[..., :half] * cos - y[..., half:] * sin, y[..., half:] * cos + y[..., :half] * sin], -1)
            for y in (q, k)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(size)
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _norm_sites(model: Any, path: str, name: str, facts: Any, ins: Any, outs: Any, sites: Any, batch: int) -> None:
    norm, x = model.get_submodule(path), _rows(ins[path], batch)
    mean = x.mean(-1, keepdim=True) if "LayerNorm" in type(norm).__name__ else 0
    centred = x - mean
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))
    scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    gain = 1.0 if getattr(norm, "weight", None) is None else norm.weight + (1 if facts.get("one") else 0)
    bias = 0.0 if getattr(norm, "bias", None) is None else norm.bias
    torch.testing.assert_close(centred / scale * gain + bias, _rows(outs[path], batch), atol=1e-4, rtol=1e-4)
    sites[name + ".hook_scale"], sites[name + ".hook_normalized"] = scale, centred / scale


def _layer_norm(model: Any, path: str, x: Tensor) -> Tensor:
    norm = model.get_submodule(path)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def _neurons(model: Any, mlp: str, at: str, facts: Any, ins: Any, sites: Any, batch: int) -> None:
    module, x = model.get_submodule(mlp), sites[at + "mlp.hook_in"]
    pre = _apply(module.get_submodule(facts["gate"]), x)
    up = None if facts["up"] is None else _apply(module.get_submodule(facts["up"]), x)
    if facts["up"] == "gate_up_proj":
        pre, up = pre.chunk(2, -1)
    act = next(child for name, child in module.named_children() if name.startswith("act"))
    sites[at + "mlp.hook_pre"] = pre
    sites[at + "mlp.hook_post"] = act(pre) if up is None else act(pre) * up
    torch.testing.assert_close(
        sites[at + "mlp.hook_post"], _rows(ins[f"{mlp}.{facts['down']}"], batch), atol=1e-4, rtol=1e-4
    )


def _experts(case: str, model: Any, mlp: str, at: str, facts: Any, ins: Any, outs: Any, sites: Any, batch: int) -> None:
    """Each expert's output for every token from its own weights, times the router's weight of it."""
    experts, x = model.get_submodule(f"{mlp}.experts"), sites[at + "mlp.hook_in"]
    if case == "llama4_text":
        _dense_experts(model, mlp, at, outs, sites, batch)
        return
    _, chosen, numbers = outs[f"{mlp}.{facts.get('router', 'gate')}"]
    weights = torch.zeros(*x.shape[:2], experts.num_experts)
    for row in range(chosen.shape[0]):
        for weight, number in zip(chosen[row], numbers[row], strict=True):
            weights[row // x.shape[1], row % x.shape[1], number] = weight
    outputs = []
    for number in range(experts.num_experts):
        if case == "gpt_oss":
            both = x @ experts.gate_up_proj[number] + experts.gate_up_proj_bias[number]
            gate, up = both[..., ::2].clamp(max=experts.limit), both[..., 1::2].clamp(-experts.limit, experts.limit)
            inner = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
            outputs.append(inner @ experts.down_proj[number] + experts.down_proj_bias[number])
        else:
            gate, up = linear(x, experts.gate_up_proj[number]).chunk(2, -1)
            outputs.append(linear(gate * torch.sigmoid(gate) * up, experts.down_proj[number]))
    sites[at + "mlp.hook_expert_weights"] = weights
    sites[at + "mlp.hook_expert_out"] = torch.stack(outputs, 2) * weights[..., None] * facts.get("times", 1.0)
    rest = sites[at + "hook_mlp_out"] - sites[at + "mlp.hook_expert_out"].sum(2)
    if case in LATENT:
        rest = rest - outs[f"{mlp}.shared_experts"]
    if case == "qwen2_moe":
        shared = torch.sigmoid(outs[f"{mlp}.shared_expert_gate"]) * outs[f"{mlp}.shared_expert"]
        rest = rest - _rows(shared, batch)
    assert rest.abs().max() < 1e-4


def _dense_experts(model: Any, mlp: str, at: str, outs: Any, sites: Any, batch: int) -> None:
    """Llama 4: the sigmoids of a token's largest logits multiply what the experts get, not what they give."""
    router, experts = model.get_submodule(f"{mlp}.router"), model.get_submodule(f"{mlp}.experts")
    x = sites[at + "mlp.hook_in"]
    logits = linear(x, router.weight)
    least = logits.topk(model.config.num_experts_per_tok, -1).values[..., -1:]
    weights = torch.sigmoid(logits) * (logits >= least)
    outputs = []
    for number in range(experts.num_experts):
        gate, up = (x * weights[..., number, None] @ experts.gate_up_proj[number]).chunk(2, -1)
        outputs.append((up * gate * torch.sigmoid(gate)) @ experts.down_proj[number])
    sites[at + "mlp.hook_expert_weights"], sites[at + "mlp.hook_expert_out"] = weights, torch.stack(outputs, 2)
    shared = model.get_submodule(f"{mlp}.shared_expert")
    gate = linear(x, shared.gate_proj.weight)
    rest = linear(gate * torch.sigmoid(gate) * linear(x, shared.up_proj.weight), shared.down_proj.weight)
    assert (sites[at + "hook_mlp_out"] - torch.stack(outputs, 2).sum(2) - rest).abs().max() < 1e-4


def _apply(module: Any, x: Tensor) -> Tensor:
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    return linear(x, weight, module.bias)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _rows(value: Tensor, batch: int) -> Tensor:
    return value.unflatten(0, (batch, -1)) if value.ndim == 2 else value


@contextmanager
def _watched(model: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]]:
    """First inputs and outputs of all modules by path, and scores by the path of the attention that makes them."""
    ins: dict[str, Any] = {}
    outs: dict[str, Any] = {}
    seen: dict[str, Tensor] = {}
    path_of = {module: path for path, module in model.named_modules()}

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        path = path_of[module]
        if isinstance(given, Tensor):
            ins.setdefault(path, given.clone())
        copied = (
            tuple(part.clone() if isinstance(part, Tensor) else part for part in output)
            if isinstance(output, tuple)
            else output.clone()
            if isinstance(output, Tensor)
            else output
        )
        outs.setdefault(path, copied)

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        repeat = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(repeat, dim=1) for part in (key, value))
        scores = query @ key.transpose(-1, -2) * options["scaling"]
        if (cap := options.get("softcap")) is not None:
            scores = cap * torch.tanh(scores / cap)
        scores = scores + mask
        seen[path_of[module]] = scores
        if (sinks := options.get("s_aux")) is not None:
            column = sinks[None, :, None, None].expand(*scores.shape[:3], 1)
            pattern = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
        else:
            pattern = scores.softmax(-1)
        return (pattern @ value).transpose(1, 2), pattern

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in path_of]
    implementation = model.config._attn_implementation
    AttentionInterface.register("watched", attend)
    AttentionMaskInterface.register("watched", eager_mask)
    if model.config.model_type in ("gptj", "gpt_neo"):
        for module, path in path_of.items():
            if hasattr(module, "_attn"):
                _watch_products(module, path, seen)
    elif model.config.model_type != "falcon":
        model.config._attn_implementation = "watched"
    try:
        yield ins, outs, seen
    finally:
        model.config._attn_implementation = implementation
        for handle in handles:
            handle.remove()
        for module in path_of:
            vars(module).pop("_attn", None)


def _watch_products(module: Any, path: str, seen: dict[str, Tensor]) -> None:
    """GPT-J scales its products by the root of the head size; GPT-Neo does not, and may look back only so far."""
    attend, window = module._attn, getattr(module, "bias", None)

    def watched(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        scores = query @ key.transpose(-1, -2)
        if hasattr(module, "scale_attn"):
            scores = scores / math.sqrt(query.shape[-1])
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        if window is not None and not hasattr(module, "scale_attn"):
            hidden = hidden | ~window[0, 0, : len(hidden), : len(hidden)]
        seen[path] = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        return attend(query, key, value, *args, **options)

    module._attn = watched
