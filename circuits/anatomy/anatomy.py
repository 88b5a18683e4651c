"""Where the parts of a transformer block are, in every supported family: found by their place, never by their class.

21 architectures use one class for the norms of the residual stream and for those of queries and keys; only the place
tells them apart. A family whose parts are not listed here is refused before anything runs.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from interp.models.bridge import module_at

Fusion = Literal["separate", "thirds", "by_head"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Module paths of one family; those of a block start at the block."""

    blocks: str
    embedding: str
    final_norm: str
    norm1: str = "input_layernorm"
    attention: str = "self_attn"
    fusion: Fusion = "separate"
    """How queries, keys and values come: from a projection each, as thirds of one output, or as thirds of each head."""
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    attention_post_norm: str | None = None
    norm2: str = "post_attention_layernorm"
    mlp: str = "mlp"
    activation: str = "act_fn"
    up: str | None = "up_proj"
    """The branch that the activated gate multiplies; None where there is no gate."""
    down: str = "down_proj"
    mlp_post_norm: str | None = None
    query_key_norms: tuple[str, ...] = ()
    """Norms inside attention, which no rule touches (the published variants leave them alone too)."""


_LLAMA = Family(blocks="model.layers", embedding="model.embed_tokens", final_norm="model.norm")
_GEMMA: dict[str, Any] = vars(_LLAMA) | {
    "attention_post_norm": "post_attention_layernorm",
    "norm2": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        blocks="transformer.h",
        embedding="transformer.wte",
        final_norm="transformer.ln_f",
        norm1="ln_1",
        attention="attn",
        fusion="thirds",
        q="c_attn",
        k="c_attn",
        v="c_attn",
        o="c_proj",
        norm2="ln_2",
        activation="act",
        up=None,
        down="c_proj",
    ),
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        fusion="by_head",
        q="query_key_value",
        k="query_key_value",
        v="query_key_value",
        o="dense",
        activation="act",
        up=None,
        down="dense_4h_to_h",
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "gemma2": Family(**_GEMMA),
    "gemma3_text": Family(**_GEMMA | {"query_key_norms": ("q_norm", "k_norm")}),
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """The modules of one layer that run; a bridge's components where the model is a bridge."""

    whole: nn.Module
    norm1: nn.Module
    attention: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    attention_post_norm: nn.Module | None
    norm2: nn.Module
    mlp: nn.Module
    activation: nn.Module
    up: nn.Module | None
    down: nn.Module
    mlp_post_norm: nn.Module | None

    @property
    def attention_added(self) -> nn.Module:
        """The module whose output attention adds to the residual stream."""
        return self.attention if self.attention_post_norm is None else self.attention_post_norm

    @property
    def mlp_added(self) -> nn.Module:
        """The module whose output the MLP adds to the residual stream."""
        return self.mlp if self.mlp_post_norm is None else self.mlp_post_norm

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """Every norm on the way from and to the residual stream."""
        found = (self.norm1, self.attention_post_norm, self.norm2, self.mlp_post_norm)
        return tuple(norm for norm in found if norm is not None)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts of one model."""

    root: nn.Module
    embedding: nn.Module
    final_norm: nn.Module
    blocks: tuple[Block, ...]
    fusion: Fusion
    parallel: bool
    """Attention and MLP read the same residual stream, so that there is none between them."""
    heads: int
    key_value_heads: int
    query_key_norms: bool
    """Attention normalises its queries and keys."""

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """All norms that read or write the residual stream."""
        return (*(norm for block in self.blocks for norm in block.norms), self.final_norm)


def anatomy_of(model: Any) -> Anatomy:
    """Find the parts of a plain Hugging Face model or of a bridge.

    Raises:
        ValueError: an unsupported family, or a block that has a part more or less than its family: what a rule would
            silently miss.
    """
    root = getattr(model, "original_model", model)
    config = root.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"the parts of a {config.model_type!r} block (a {type(root).__name__}) are not known; supported are"
            f" {', '.join(FAMILIES)}. Add the family to circuits.anatomy.FAMILIES with a tiny model in the tests"
        )
    blocks = tuple(_block(model, family, layer) for layer in range(config.num_hidden_layers))
    _check_nothing_else_normalises(model, family, config.num_hidden_layers)
    heads = config.num_attention_heads
    return Anatomy(
        root=root,
        embedding=_required(model, family.embedding),
        final_norm=_required(model, family.final_norm),
        blocks=blocks,
        fusion=family.fusion,
        parallel=config.model_type == "gpt_neox" and config.use_parallel_residual,
        heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        query_key_norms=bool(family.query_key_norms),
    )


def _block(model: Any, family: Family, layer: int) -> Block:
    at = f"{family.blocks}.{layer}"
    attention, mlp = f"{at}.{family.attention}", f"{at}.{family.mlp}"

    def optional(path: str, part: str | None) -> nn.Module | None:
        return None if part is None else _required(model, f"{path}.{part}")

    # A bridge splits a fused projection: there q, k and v are components of their own, and the fused one never runs.
    component = _required(model, attention)
    split = {"q", "k", "v"} <= set(component._modules) and family.fusion != "separate"
    q, k, v = (
        component._modules[name] if split else _required(model, f"{attention}.{part}")
        for name, part in (("q", family.q), ("k", family.k), ("v", family.v))
    )
    assert q is not None
    assert k is not None
    assert v is not None
    return Block(
        whole=_required(model, at),
        norm1=_required(model, f"{at}.{family.norm1}"),
        attention=component,
        q=q,
        k=k,
        v=v,
        o=component._modules["o"] or component if split else _required(model, f"{attention}.{family.o}"),
        attention_post_norm=optional(at, family.attention_post_norm),
        norm2=_required(model, f"{at}.{family.norm2}"),
        mlp=_required(model, mlp),
        activation=_required(model, f"{mlp}.{family.activation}"),
        up=optional(mlp, family.up),
        down=_required(model, f"{mlp}.{family.down}"),
        mlp_post_norm=optional(at, family.mlp_post_norm),
    )


def _required(model: Any, path: str) -> nn.Module:
    module = module_at(model, path)
    if module is None:
        raise ValueError(
            f"there is no {path!r} in this {type(model).__name__}, which its family has: its blocks were changed, and"
            " a rule or a patch would miss what stands there now"
        )
    return module


def _check_nothing_else_normalises(model: Any, family: Family, layers: int) -> None:
    """A norm beside the listed ones would keep its plain gradient without anybody noticing."""
    names = (family.norm1, family.attention_post_norm, family.norm2, family.mlp_post_norm)
    known = {f"{family.blocks}.{layer}.{name}" for layer in range(layers) for name in names if name is not None}
    known |= {family.final_norm}
    known |= {
        f"{family.blocks}.{layer}.{family.attention}.{name}"
        for layer in range(layers)
        for name in family.query_key_norms
    }
    root = getattr(model, "original_model", model)
    found = {_plain_path(name) for name, module in root.named_modules() if "norm" in type(module).__name__.lower()}
    if unknown := sorted(found - known):
        raise ValueError(f"{type(root).__name__} has norms that no rule knows: {', '.join(unknown[:4])}")


def _plain_path(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_original_component")
