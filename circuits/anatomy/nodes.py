"""Families of nodes: what can be patched and scored, and where each lies among the modules of a block."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, Block, model_type, part_of_projection

NodeFamily = str
ALIASES = {"heads": "z", "neurons": "mlp_post", "embeddings": "embed"}


@dataclass(frozen=True)
class Node:
    """One cell of a result: a site, and the entry within it where it has several.

    ``position`` is None where positions are taken together, and numbers roles where the task has those; ``index``
    numbers heads, neurons or latents.
    """

    family: NodeFamily
    """Name of its family, such as ``attn_out``."""
    layer: int
    """Its layer, counted from 0."""
    position: int | None = None
    """Position, or number of a role; None where positions are taken together."""
    index: int | None = None
    """Number of its head, neuron or latent; None where a site is one node."""

    def __str__(self) -> str:
        inner = "" if self.index is None else f"[{self.index}]"
        at = "" if self.position is None else f"@{self.position}"
        return f"{self.family}.{self.layer}{inner}{at}"


@dataclass(frozen=True, eq=False)
class Hook:
    """Where a running model is read or changed: a module's first input or first output, or a part of it by heads.

    ``read`` turns the tensor into ``[batch, position, d]`` or ``[batch, position, unit, d]``; ``embed`` brings a change
    of that shape back into the tensor's, with zeros elsewhere.
    """

    module: nn.Module
    """The module whose first input or output it is."""
    entering: bool
    """Whether it is the module's input and not its output."""
    read: Callable[[Tensor], Tensor] = lambda whole: whole
    """Turns the tensor into ``[batch, position, d]`` or ``[batch, position, unit, d]``."""
    embed: Callable[[Tensor], Tensor] = lambda part: part
    """Brings a change of that shape back into the tensor's, with zeros elsewhere."""


@dataclass(frozen=True, kw_only=True)
class NodeHooks:
    """A node family in one layer: where its value is seen, and where a change of it can be made.

    The two differ for the residual stream between attention and MLP: the module that reads it is not the only one that
    uses it, so changes (and gradients) go through the output of attention, which is added to it.
    """

    value: Hook
    """Where the family's value is read."""
    change: Hook
    """Where a change of it is made, and its gradient taken."""


@dataclass(frozen=True, kw_only=True)
class FamilyInfo:
    """What a family of nodes is."""

    hooks: Callable[[Anatomy, int], NodeHooks]
    """Where the family is, of an anatomy and a layer."""
    units: Callable[[Anatomy], int] | None = None
    """How many nodes there are at a site (heads); None for one, and for neurons, whose entries are nodes each."""
    entries: bool = False
    """Every entry of the vector is a node (neurons)."""
    unit: str = ""
    """What one of several nodes at a site is called, such as head."""
    once: bool = False
    """Only before the first layer (embeddings)."""
    under_ah: bool = True
    """Whether it has relevance where patterns are constants."""


def node_hooks(anatomy: Anatomy, family: NodeFamily) -> list[NodeHooks]:
    """Where a family's nodes are, by layer.

    Raises:
        ValueError: an unknown family, or one that the model does not have.
    """
    info = family_info(family)
    _check_present(anatomy, ALIASES.get(family, family))
    return [info.hooks(anatomy, layer) for layer in range(1 if info.once else len(anatomy.blocks))]


def _check_present(anatomy: Anatomy, family: NodeFamily) -> None:
    what, name = anatomy.family, f"this {model_type(anatomy)!r} model"
    if family == "resid_mid" and what.parallel:
        raise ValueError(
            f"{name} has no resid_mid: attention and MLP read the residual stream in parallel; use resid_pre"
        )
    if family == "resid_mid" and what.post_layer_norm:
        raise ValueError(
            f"{name} normalises the residual stream behind attention, so that no module's output alone changes its"
            " resid_mid; use attn_out"
        )
    if family in ("resid_mid", "mlp_post", "mlp_out") and what.mlp is None:
        raise ValueError(
            f"in {name} no module is the MLP, so {family} has no place to patch; use resid_pre, resid_post or attn_out"
        )
    if family == "mlp_out" and what.mixture is not None and what.mixture.dense:
        raise ValueError(
            f"in {name} mixtures of experts put tokens out without a batch, so mlp_out has no place to patch; use"
            " resid_mid, resid_post or attn_out"
        )
    if family == "mlp_post" and what.mixture is not None:
        raise ValueError(f"{name} has mixtures of experts, whose neurons are in every expert; use mlp_out")
    if family in ("k", "v") and what.latent is not None:
        raise ValueError(
            f"{name} makes keys and values of one small vector, so {family} alone has no place; use q or z"
        )


def family_info(family: NodeFamily) -> FamilyInfo:
    """The family of that name.

    Raises:
        ValueError: there is none.
    """
    name = ALIASES.get(family, family)
    if name not in FAMILIES:
        shown = [*FAMILIES, *ALIASES]
        raise ValueError(f"nodes {family!r} are not known; choose from {', '.join(shown)}, or latents with saes=[...]")
    return FAMILIES[name]


def _same(hook: Hook) -> NodeHooks:
    return NodeHooks(value=hook, change=hook)


def _down(anatomy: Anatomy, layer: int) -> NodeHooks:
    down = anatomy.blocks[layer].down
    assert down is not None
    return _same(Hook(down, entering=True))


def _in(module: Callable[[Block], nn.Module]) -> Callable[[Anatomy, int], NodeHooks]:
    return lambda anatomy, layer: _same(Hook(module(anatomy.blocks[layer]), entering=True))


def _out(module: Callable[[Block], nn.Module]) -> Callable[[Anatomy, int], NodeHooks]:
    return lambda anatomy, layer: _same(Hook(module(anatomy.blocks[layer]), entering=False))


def _added(module: Callable[[Block], nn.Module]) -> Callable[[Anatomy, int], NodeHooks]:
    """What a module adds to the residual stream, where a family multiplies it on the way."""

    def hooks(anatomy: Anatomy, layer: int) -> NodeHooks:
        return _multiplied(module(anatomy.blocks[layer]), anatomy.family.residual_multiplier)

    return hooks


def _multiplied(module: nn.Module, factor: float) -> NodeHooks:
    """A module's output times a factor. A change of the product is one of the output divided by it, and so is the
    gradient, which is read where changes are made."""
    if factor == 1:
        return _same(Hook(module, entering=False))
    return NodeHooks(
        value=Hook(module, entering=False, read=lambda whole: whole * factor),
        change=Hook(module, entering=False, read=lambda whole: whole / factor, embed=lambda part: part / factor),
    )


def _embed(anatomy: Anatomy, _layer: int) -> NodeHooks:
    return _multiplied(anatomy.embedding_projection or anatomy.embedding, anatomy.family.embedding_multiplier)


def _resid_mid(anatomy: Anatomy, layer: int) -> NodeHooks:
    block = anatomy.blocks[layer]
    reader = block.mlp if block.norm2 is None else block.norm2
    added = _multiplied(block.attention_added, anatomy.family.residual_multiplier)
    return NodeHooks(value=Hook(reader, entering=True), change=added.change)


def _z(anatomy: Anatomy, layer: int) -> NodeHooks:
    heads = anatomy.heads
    return _same(
        Hook(
            anatomy.blocks[layer].o,
            entering=True,
            read=lambda whole: whole.unflatten(-1, (heads, -1)),
            embed=lambda part: part.flatten(-2),
        )
    )


def _projected(name: str, number: int) -> Callable[[Anatomy, int], NodeHooks]:
    def hooks(anatomy: Anatomy, layer: int) -> NodeHooks:
        module = getattr(anatomy.blocks[layer], name)
        read, embed = part_of_projection(anatomy, number)
        return _same(Hook(module, entering=False, read=read, embed=embed))

    return hooks


FAMILIES: dict[NodeFamily, FamilyInfo] = {
    "embed": FamilyInfo(hooks=_embed, once=True),
    "resid_pre": FamilyInfo(hooks=_in(lambda block: block.whole)),
    "q": FamilyInfo(hooks=_projected("q", 0), units=lambda a: a.heads, unit="head", under_ah=False),
    "k": FamilyInfo(hooks=_projected("k", 1), units=lambda a: a.key_value_heads, unit="head", under_ah=False),
    "v": FamilyInfo(hooks=_projected("v", 2), units=lambda a: a.key_value_heads, unit="head"),
    "z": FamilyInfo(hooks=_z, units=lambda a: a.heads, unit="head"),
    "attn_out": FamilyInfo(hooks=_added(lambda block: block.attention_added)),
    "resid_mid": FamilyInfo(hooks=_resid_mid),
    "mlp_post": FamilyInfo(hooks=_down, entries=True, unit="neuron"),
    "mlp_out": FamilyInfo(hooks=_added(lambda block: block.mlp_added)),
    "resid_post": FamilyInfo(hooks=_out(lambda block: block.whole)),
}
"""Named as the sites of ``interp.sites.site``; values are those of the unpatched Hugging Face model."""
