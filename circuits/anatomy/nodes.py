"""Families of nodes: what can be patched and scored, and where each lies among the modules of a block."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, Block

NodeFamily = str
ALIASES = {"heads": "z", "neurons": "mlp_post", "embeddings": "embed"}


@dataclass(frozen=True)
class Node:
    """One cell of a result: a place, and the entry within it where it has several.

    ``position`` is None where positions are taken together, and numbers roles where the task has those; ``index``
    numbers heads, neurons or latents.
    """

    family: NodeFamily
    layer: int
    position: int | None = None
    index: int | None = None

    def __str__(self) -> str:
        inner = "" if self.index is None else f"[{self.index}]"
        at = "" if self.position is None else f"@{self.position}"
        return f"{self.family}.{self.layer}{inner}{at}"


@dataclass(frozen=True, eq=False)
class Spot:
    """A tensor of the running model: a module's first input or first output, or a part of it by heads.

    ``read`` turns the tensor into ``[batch, position, d]`` or ``[batch, position, unit, d]``; ``embed`` brings a change
    of that shape back into the tensor's, with zeros elsewhere.
    """

    module: nn.Module
    entering: bool
    read: Callable[[Tensor], Tensor] = lambda whole: whole
    embed: Callable[[Tensor], Tensor] = lambda part: part


@dataclass(frozen=True, kw_only=True)
class Places:
    """A node family in one layer: where its value is seen, and where a change of it can be made.

    The two differ for the residual stream between attention and MLP: the module that reads it is not the only one that
    uses it, so changes (and gradients) go through the output of attention, which is added to it.
    """

    value: Spot
    change: Spot


@dataclass(frozen=True, kw_only=True)
class FamilyInfo:
    """What a family of nodes is."""

    spots: Callable[[Anatomy, int], Places]
    units: Callable[[Anatomy], int] | None = None
    """How many nodes there are at a place (heads); None for one, and for neurons, whose entries are nodes each."""
    entries: bool = False
    """Every entry of the vector is a node (neurons)."""
    unit: str = ""
    once: bool = False
    """Only before the first layer (embeddings)."""
    under_ah: bool = True
    """Whether it has relevance where patterns are constants."""


def places(anatomy: Anatomy, family: NodeFamily) -> list[Places]:
    """Where a family's nodes are, by layer.

    Raises:
        ValueError: an unknown family, or one that the model does not have.
    """
    info = family_info(family)
    if ALIASES.get(family, family) == "resid_mid" and anatomy.parallel:
        raise ValueError(
            "this model has no resid_mid: attention and MLP read the residual stream in parallel; use resid_pre"
        )
    return [info.spots(anatomy, layer) for layer in range(1 if info.once else len(anatomy.blocks))]


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


def _same(spot: Spot) -> Places:
    return Places(value=spot, change=spot)


def _in(module: Callable[[Block], nn.Module]) -> Callable[[Anatomy, int], Places]:
    return lambda anatomy, layer: _same(Spot(module(anatomy.blocks[layer]), entering=True))


def _out(module: Callable[[Block], nn.Module]) -> Callable[[Anatomy, int], Places]:
    return lambda anatomy, layer: _same(Spot(module(anatomy.blocks[layer]), entering=False))


def _resid_mid(anatomy: Anatomy, layer: int) -> Places:
    block = anatomy.blocks[layer]
    return Places(value=Spot(block.norm2, entering=True), change=Spot(block.attention_added, entering=False))


def _z(anatomy: Anatomy, layer: int) -> Places:
    heads = anatomy.heads
    return _same(
        Spot(
            anatomy.blocks[layer].o,
            entering=True,
            read=lambda whole: whole.unflatten(-1, (heads, -1)),
            embed=lambda part: part.flatten(-2),
        )
    )


def _projected(name: str, number: int) -> Callable[[Anatomy, int], Places]:
    def spots(anatomy: Anatomy, layer: int) -> Places:
        module = getattr(anatomy.blocks[layer], name)
        heads = anatomy.heads if name == "q" else anatomy.key_value_heads
        if anatomy.fusion == "separate":
            read = lambda whole: whole.unflatten(-1, (heads, -1))  # noqa: E731
            return _same(Spot(module, entering=False, read=read, embed=lambda part: part.flatten(-2)))
        thirds_first = anatomy.fusion == "thirds"
        shape, dim = ((3, heads, -1), -3) if thirds_first else ((heads, 3, -1), -2)

        def embed(part: Tensor) -> Tensor:
            stacked = part.new_zeros(
                *part.shape[:-2], *((3, *part.shape[-2:]) if thirds_first else (part.shape[-2], 3, part.shape[-1]))
            )
            stacked.select(dim, number).copy_(part)
            return stacked.flatten(-3)

        fused = Spot(
            module, entering=False, read=lambda whole: whole.unflatten(-1, shape).select(dim, number), embed=embed
        )
        return _same(fused)

    return spots


FAMILIES: dict[NodeFamily, FamilyInfo] = {
    "embed": FamilyInfo(spots=lambda anatomy, _: _same(Spot(anatomy.embedding, entering=False)), once=True),
    "resid_pre": FamilyInfo(spots=_in(lambda block: block.whole)),
    "q": FamilyInfo(spots=_projected("q", 0), units=lambda a: a.heads, unit="head", under_ah=False),
    "k": FamilyInfo(spots=_projected("k", 1), units=lambda a: a.key_value_heads, unit="head", under_ah=False),
    "v": FamilyInfo(spots=_projected("v", 2), units=lambda a: a.key_value_heads, unit="head"),
    "z": FamilyInfo(spots=_z, units=lambda a: a.heads, unit="head"),
    "attn_out": FamilyInfo(spots=_out(lambda block: block.attention_added)),
    "resid_mid": FamilyInfo(spots=_resid_mid),
    "mlp_post": FamilyInfo(spots=_in(lambda block: block.down), entries=True, unit="neuron"),
    "mlp_out": FamilyInfo(spots=_out(lambda block: block.mlp_added)),
    "resid_post": FamilyInfo(spots=_out(lambda block: block.whole)),
}
"""Named as the sites of ``interp.sites.site``; values are those of the unpatched Hugging Face model."""
