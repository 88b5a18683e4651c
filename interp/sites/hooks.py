"""Where each kind of site passes by in the plain modules of a family, and what brings it into the site's shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp.models.bridge import computed
from interp.models.families.fusion import split
from interp.sites.norms import linear_norm
from interp.sites.parts import Block, Parts
from interp.sites.softmax import PATTERN, SCORES


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Where a site's tensor passes by in the modules that will run."""

    module: nn.Module
    """The module whose inputs or outputs are looked at."""
    entering: bool = False
    """Whether it is among the module's inputs and not its outputs."""
    convert: Callable[[Tensor], Tensor] | None = None
    """Brings what passes there into the site's shape."""
    read: Callable[[tuple[Any, ...]], Tensor] | None = None
    """Makes the tensor of all inputs or outputs; None takes the first tensor."""


def hook_of(parts: Parts, kind: str, layer: int | None, *, batch: int) -> Hook | None:
    """Where a kind of site is, for a batch of so many rows; None where this model has it not."""
    if layer is None:
        return _OF_THE_MODEL[kind](parts, batch)
    return _OF_A_BLOCK[kind](parts, parts.blocks[layer], batch)


def why_absent(parts: Parts, kind: str, layer: int | None) -> str:
    """The reason that :func:`hook_of` gives None."""
    family, block = parts.family, None if layer is None else parts.blocks[layer]
    if kind == "resid_mid":
        return (
            "its attention and MLP read the residual stream in parallel, so there is no residual stream between them;"
            " the MLP's input before its norm is resid_pre"
        )
    if kind.startswith(("ln1", "ln2")):
        number = kind[2]
        if family.post_layer_norm:
            return "its norms stand in the residual stream, behind attention and MLP"
        if number == "2" and family.parallel:
            return "attention and MLP share one norm, which is ln1"
        return "it has no norm there: its norms stand between attention or MLP and the residual stream"
    if kind in ("mlp_pre", "mlp_post") and block is not None and block.experts is not None:
        return "a mixture of experts has neurons in every expert; see mlp.hook_expert_out and mlp.hook_expert_weights"
    if kind.startswith("expert"):
        return "the MLP of this layer is no mixture of experts"
    if kind in ("scores", "pattern") and not family.eager:
        return "transformers computes its attention wrongly where it could be seen: linear biases count twice"
    if kind == "scores":
        return "its softmax has a learned entry beside the keys, so that scores alone do not make the pattern"
    return "this architecture does not compute it"


def _entering(module: nn.Module | None, convert: Callable[[Tensor], Tensor] | None = None) -> Hook | None:
    return None if module is None else Hook(module=module, entering=True, convert=convert)


def _leaving(module: nn.Module | None, convert: Callable[[Tensor], Tensor] | None = None) -> Hook | None:
    return None if module is None else Hook(module=module, convert=convert)


def _by_row(flat: Tensor, batch: int) -> Tensor:
    """From ``[batch x position, …]`` to ``[batch, position, …]``."""
    return flat.unflatten(0, (batch, -1))


def _rows(batch: int) -> Callable[[Tensor], Tensor]:
    return lambda value: _by_row(value, batch) if value.ndim == 2 else value


def _times(factor: float) -> Callable[[Tensor], Tensor] | None:
    return None if factor == 1 else lambda value: value * factor


def _embed(parts: Parts, _batch: int) -> Hook | None:
    return _leaving(parts.embedding_projection or parts.embedding, _times(parts.family.embedding_multiplier))


def _norm(norm: nn.Module | None, value: str, batch: int | None = None) -> Hook | None:
    """What a norm divides by, or its output before the gain, made of its input."""

    def convert(x: Tensor) -> Tensor:
        x = x if batch is None else _rows(batch)(x)
        return getattr(linear_norm(norm), value)(x)  # type: ignore[arg-type]

    return _entering(norm, convert)


def _normed(number: int, value: str) -> Callable[[Parts, Block, int], Hook | None]:
    def hook(parts: Parts, block: Block, batch: int) -> Hook | None:
        norm = block.norm1 if number == 1 else block.norm2
        return None if parts.family.post_layer_norm else _norm(norm, value, batch)

    return hook


def _projected(number: int) -> Callable[[Parts, Block, int], Hook | None]:
    def hook(parts: Parts, block: Block, _batch: int) -> Hook | None:
        layout = partial(split, fusion=parts.family.fusion, heads=parts.heads, key_value_heads=parts.key_value_heads)
        if parts.family.latent is not None and number > 0:
            return _latent_key(parts, block) if number == 1 else _latent_value(parts, block)
        module = (block.q, block.k, block.v)[number]
        return Hook(module=module, convert=lambda whole: layout(whole, number))

    return hook


def _config(parts: Parts) -> Any:
    return parts.root.config


def _latent_key(parts: Parts, block: Block) -> Hook:
    """Made of the small vector as attention makes it, since no module's output holds the whole key."""
    latent, config = parts.family.latent, _config(parts)
    assert latent is not None
    down, norm, up = (block.attention.get_submodule(path) for path in (latent.down, latent.norm, latent.up))
    own, shared = config.qk_nope_head_dim, config.qk_rope_head_dim

    def convert(small: Tensor) -> Tensor:
        small, rotary = small.split([small.shape[-1] - shared, shared], -1)
        keys = computed(up, computed(norm, small)).unflatten(-1, (parts.heads, -1))[..., :own]
        return torch.cat([keys, rotary[..., None, :].expand(*keys.shape[:-1], shared)], -1)

    return Hook(module=down, convert=convert)


def _latent_value(parts: Parts, block: Block) -> Hook:
    own = _config(parts).qk_nope_head_dim

    def convert(both: Tensor) -> Tensor:
        both = both.squeeze(1) if both.ndim == 4 else both  # as one head, for the sake of caches
        return both.unflatten(-1, (parts.heads, -1))[..., own:]

    return Hook(module=block.v, convert=convert)


def _query_key_norm(name: str) -> Callable[[Parts, Block, int], Hook | None]:
    def hook(parts: Parts, block: Block, _batch: int) -> Hook | None:
        axes, heads = parts.family.query_key_norm_axes, parts.heads if name == "q_norm" else parts.key_value_heads
        conversions: dict[str, Callable[[Tensor], Tensor]] = {
            "heads": lambda value: value,
            "heads_first": lambda value: value.transpose(1, 2),
            "flat": lambda value: value.unflatten(-1, (heads, -1)),
        }
        return _leaving(getattr(block, name), conversions[axes])

    return hook


def _softmax(name: str) -> Callable[[Parts, Block, int], Hook | None]:
    def hook(parts: Parts, block: Block, batch: int) -> Hook | None:
        sinks = parts.family.sinks
        if not parts.family.eager or (sinks and name == SCORES):
            return None
        dtype = next(parts.root.parameters()).dtype
        # Nothing shows what was not asked for; the attention itself then stands for having it.
        module = block.attention._modules.get(name) or block.attention

        def convert(value: Tensor) -> Tensor:
            value = value.unflatten(0, (batch, -1)) if value.ndim == 3 else value  # heads of all rows as one batch
            return (value[..., :-1] if sinks else value).to(dtype)

        return Hook(module=module, convert=convert)

    return hook


def _z(parts: Parts, block: Block, _batch: int) -> Hook | None:
    return _entering(block.o, lambda whole: whole.unflatten(-1, (parts.heads, -1)))


def _result(parts: Parts, block: Block, _batch: int) -> Hook | None:
    """Each head's part of the output projection's output; its bias belongs to none."""

    def convert(whole: Tensor) -> Tensor:
        of_heads = torch.eye(parts.heads, dtype=whole.dtype, device=whole.device)
        alone = (whole.unflatten(-1, (parts.heads, 1, -1)) * of_heads[..., None]).flatten(-2)
        return computed(block.o, alone) - computed(block.o, torch.zeros_like(alone[..., :1, :]))

    return _entering(block.o, convert)


def _resid_mid(parts: Parts, block: Block, batch: int) -> Hook | None:
    if parts.family.parallel:
        return None
    after_norm = parts.family.post_layer_norm or block.norm2 is None
    return _entering(block.mlp if after_norm else block.norm2, _rows(batch))


def _mlp_pre(parts: Parts, block: Block, batch: int) -> Hook | None:
    return _entering(block.activation, _rows(batch))


def _added(name: str) -> Callable[[Parts, Block, int], Hook | None]:
    def hook(parts: Parts, block: Block, batch: int) -> Hook | None:
        factor = parts.family.residual_multiplier
        return _leaving(getattr(block, name), lambda value: _rows(batch)(value if factor == 1 else value * factor))

    return hook


def _expert_weights(parts: Parts, block: Block, batch: int) -> Hook | None:
    experts = block.experts
    if experts is None:
        return None
    count = int(experts.num_experts)  # type: ignore[arg-type]
    dense = parts.family.mixture is not None and parts.family.mixture.dense

    def read(passing: tuple[Any, ...]) -> Tensor:
        if dense:
            return _by_row(passing[0], batch)
        *_, weights, indices = passing
        return _by_row(weights.new_zeros(len(weights), count).scatter(1, indices, weights), batch)

    return None if block.router is None else Hook(module=block.router, read=read)


def _expert_out(parts: Parts, block: Block, batch: int) -> Hook | None:
    """What each expert adds, its weight included: the experts called once for each of a token's choices."""
    experts = block.experts
    if experts is None:
        return None
    count = int(experts.num_experts)  # type: ignore[arg-type]
    if parts.family.mixture is not None and parts.family.mixture.dense:
        return Hook(module=experts, convert=lambda out: _by_row(out.unflatten(0, (count, -1)).transpose(0, 1), batch))

    def read(passing: tuple[Any, ...]) -> Tensor:
        hidden, indices, weights = passing
        out = hidden.new_zeros(len(hidden), count, hidden.shape[-1])
        for choice in range(indices.shape[1]):
            at = indices[:, choice : choice + 1]
            added = computed(experts, hidden, at, weights[:, choice : choice + 1])
            out = out.scatter(1, at[..., None].expand(-1, -1, hidden.shape[-1]), added[:, None])
        return _by_row(out * parts.family.residual_multiplier, batch)

    return Hook(module=experts, entering=True, read=read)


_OF_THE_MODEL: Mapping[str, Callable[[Parts, int], Hook | None]] = {
    "embed": _embed,
    "pos_embed": lambda parts, batch: _leaving(parts.position_embedding, lambda value: value.expand(batch, -1, -1)),
    "ln_final_scale": lambda parts, _batch: _norm(parts.final_norm, "divisor"),
    "ln_final_normalized": lambda parts, _batch: _norm(parts.final_norm, "normalized"),
    "logits": lambda parts, _batch: _leaving(parts.root),
}

_OF_A_BLOCK: Mapping[str, Callable[[Parts, Block, int], Hook | None]] = {
    "resid_pre": lambda _parts, block, _batch: _entering(block.whole),
    "ln1_scale": _normed(1, "divisor"),
    "ln1_normalized": _normed(1, "normalized"),
    "q": _projected(0),
    "k": _projected(1),
    "v": _projected(2),
    "q_normed": _query_key_norm("q_norm"),
    "k_normed": _query_key_norm("k_norm"),
    "scores": _softmax(SCORES),
    "pattern": _softmax(PATTERN),
    "z": _z,
    "result": _result,
    "attn_out": _added("attention_added"),
    "resid_mid": _resid_mid,
    "ln2_scale": _normed(2, "divisor"),
    "ln2_normalized": _normed(2, "normalized"),
    "mlp_in": lambda _parts, block, batch: _entering(block.mlp, _rows(batch)),
    "mlp_pre": _mlp_pre,
    "mlp_post": lambda _parts, block, batch: _entering(block.down, _rows(batch)),
    "expert_weights": _expert_weights,
    "expert_out": _expert_out,
    "mlp_out": _added("mlp_added"),
    "resid_post": lambda _parts, block, _batch: _leaving(block.whole),
}
