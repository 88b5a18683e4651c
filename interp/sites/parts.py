"""The modules of a model's blocks, found by the paths that its family declares.

Found by their place, never by their class: 21 architectures use one class for the norms of the residual stream and for
those of queries and keys, and only the place tells them apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from interp.models.bridge import module_at
from interp.models.families.family import Family
from interp.models.families.table import family_of


@dataclass(frozen=True, kw_only=True)
class Block:
    """The modules of one layer that run; a bridge's components where the model is a bridge. None: it has no such part.

    In a layer with a mixture of experts there are ``router`` and ``experts``, and no ``activation``, ``up``, ``down``.

    Example:
        >>> import circuits.anatomy, interp
        >>> model = interp.load_model("embedded")
        >>> block = circuits.anatomy.anatomy_of(model).blocks[1]
        >>> block.q_norm is None
        True
    """

    whole: nn.Module
    """The block itself, whose output is the residual stream."""
    norm1: nn.Module | None
    """The norm before attention; behind it where norms stand in the stream."""
    attention: nn.Module
    """The module that is the block's attention."""
    q: nn.Module
    """The projection whose output is queries."""
    k: nn.Module
    """The projection whose output is keys."""
    v: nn.Module
    """The projection whose output is values; q, k and v may be one module."""
    o: nn.Module
    """The projection of all heads' outputs to the residual stream."""
    q_norm: nn.Module | None
    """A norm of queries, behind their projection."""
    k_norm: nn.Module | None
    """A norm of keys, behind their projection."""
    attention_post_norm: nn.Module | None
    """A norm between attention and the residual stream."""
    norm2: nn.Module | None
    """The norm before the MLP, where that has one of its own."""
    mlp: nn.Module
    """What the MLP's input enters: the MLP, or its first projection where the block holds it."""
    activation: nn.Module | None
    """The module that is the MLP's nonlinear function."""
    up: nn.Module | None
    """The projection whose output the activated gate multiplies."""
    gate_up: nn.Module | None
    """The module that gives the gate and, behind it, that branch."""
    down: nn.Module | None
    """The MLP's last projection, whose input are its neurons."""
    router: nn.Module | None
    """What chooses experts, in a layer that has them."""
    experts: nn.Module | None
    """All experts of the layer, called with what the router chose."""
    mlp_post_norm: nn.Module | None
    """A norm between MLP and residual stream."""
    flat: bool
    """The MLP is no module, and its projections see ``[batch x position, d]`` (OPT)."""

    @property
    def attention_added(self) -> nn.Module:
        """The module whose output attention adds to the residual stream."""
        return self.attention if self.attention_post_norm is None else self.attention_post_norm

    @property
    def mlp_added(self) -> nn.Module:
        """The module whose output the MLP adds to the residual stream."""
        if self.mlp_post_norm is not None:
            return self.mlp_post_norm
        return self.down if self.flat and self.down is not None else self.mlp

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """Every norm on the way from and to the residual stream."""
        found = (self.norm1, self.attention_post_norm, self.norm2, self.mlp_post_norm)
        return tuple(norm for norm in found if norm is not None)


class Blocks:
    """The blocks of a model, each found when it is first asked for. No Sequence: what checks types would look into one,
    and so find blocks that nobody asked for."""

    def __init__(self, model: Any, family: Family, count: int) -> None:
        self._model, self._family, self._count = model, family, count
        self._found: dict[int, Block] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, layer: int) -> Block:
        number = range(self._count)[layer]
        if number not in self._found:
            self._found[number] = _block(self._model, self._family, number)
        return self._found[number]

    def __iter__(self) -> Iterator[Block]:
        return map(self.__getitem__, range(self._count))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of one model.

    Example:
        >>> import circuits.anatomy, interp
        >>> model = interp.load_model("embedded")
        >>> type(circuits.anatomy.anatomy_of(model).final_norm).__name__
        'NormalizationBridge'
    """

    root: nn.Module
    """The whole model that runs."""
    family: Family
    """The declaration that the parts were found by."""
    embedding: nn.Module
    """The embedding of tokens, as it runs."""
    embedding_projection: nn.Module | None
    """What brings a narrower embedding to the stream's width."""
    position_embedding: nn.Module | None
    """The embedding of positions, where one is added."""
    final_norm: nn.Module | None
    """The norm before the unembedding, where there is one."""
    blocks: Blocks
    """The parts of every block, looked up when they are wanted."""
    heads: int
    """How many query heads a layer has."""
    key_value_heads: int
    """How many heads of keys and values a layer has."""

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """All norms that read or write the residual stream."""
        final = () if self.final_norm is None else (self.final_norm,)
        return (*(norm for block in self.blocks for norm in block.norms), *final)


def parts_of(model: Any) -> Parts:
    """Find the parts of a plain Hugging Face model or of a bridge.

    Raises:
        ValueError: a family that is not declared, or a block without a part that its family has.
    """
    root = getattr(model, "original_model", model)
    config, family = root.config, family_of(root.config)
    heads = config.num_attention_heads
    return Parts(
        root=root,
        family=family,
        embedding=_required(model, family.embedding),
        embedding_projection=_optional(model, family.embedding_projection),
        position_embedding=_optional(model, family.position_embedding),
        final_norm=_optional(model, family.final_norm),
        blocks=Blocks(model, family, config.num_hidden_layers),
        heads=heads,
        key_value_heads=family.key_value_heads or getattr(config, "num_key_value_heads", None) or heads,
    )


def _block(model: Any, family: Family, layer: int) -> Block:
    at = f"{family.blocks}.{layer}"
    attention, mlp = f"{at}.{family.attention}", at if family.mlp is None else f"{at}.{family.mlp}"

    def optional(path: str, part: str | None) -> nn.Module | None:
        return None if part is None else _required(model, f"{path}.{part}")

    component = _required(model, attention)
    q, k, v, o = _projections(model, family, attention, component)
    mixture = family.mixture
    if mixture is not None and module_at(model, f"{mlp}.{mixture.experts}") is None:
        mixture = None
    plain = {name: None if mixture else getattr(family, name) for name in ("activation", "up", "gate_up", "down")}
    return Block(
        whole=_required(model, at),
        norm1=optional(at, family.norm1),
        attention=component,
        q=q,
        k=k,
        v=v,
        o=o,
        q_norm=optional(attention, family.q_norm),
        k_norm=optional(attention, family.k_norm),
        attention_post_norm=optional(at, family.attention_post_norm),
        norm2=optional(at, family.norm2),
        mlp=_required(model, f"{at}.{family.mlp or family.first}"),
        router=optional(mlp, None if mixture is None else mixture.router),
        experts=optional(mlp, None if mixture is None else mixture.experts),
        mlp_post_norm=optional(at, family.mlp_post_norm),
        flat=family.mlp is None,
        **{name: optional(mlp, part) for name, part in plain.items()},
    )


def _projections(
    model: Any, family: Family, attention: str, component: nn.Module
) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """Of queries, keys, values and the output. A bridge splits a fused projection: there q, k and v are components of
    their own, and the fused one never runs."""
    if family.latent is not None:
        up = _required(model, f"{attention}.{family.latent.up}")
        return _required(model, f"{attention}.{family.q}"), up, up, _required(model, f"{attention}.{family.o}")
    if family.fusion != "separate" and {"q", "k", "v"} <= set(component._modules):
        q, k, v = (component._modules[name] for name in ("q", "k", "v"))
        assert q is not None
        assert k is not None
        assert v is not None
        return q, k, v, component._modules["o"] or component
    q, k, v, o = (_required(model, f"{attention}.{part}") for part in (family.q, family.k, family.v, family.o))
    return q, k, v, o


def _optional(model: Any, path: str | None) -> nn.Module | None:
    return None if path is None else _required(model, path)


def _required(model: Any, path: str) -> nn.Module:
    module = module_at(model, path)
    if module is None:
        raise ValueError(
            f"there is no {path!r} in this {type(model).__name__}, which its family has: its blocks were changed, and"
            " what looks for that part would miss what stands there now"
        )
    return module
