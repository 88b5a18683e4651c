"""Who reads from whom: writers to the residual stream, readers of it, and the edges between them.

Writers are the input (``embed``: what enters the first block), every head and every MLP. Readers are the queries, keys
and values of every head (with grouped queries, of every key-value head), the input of every MLP, and ``logits``. Each
reader sees the sum of all writers before it, so every pair is an edge.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, Block, model_type, part_of_projection, require_final_norm
from circuits.anatomy.nodes import Hook, NodeHooks, node_hooks

EMBED, LOGITS = "embed", "logits"
PARTS = ("q", "k", "v")


@dataclass(frozen=True)
class End:
    """A writer or a reader.

    ``part`` of a reader in attention is q, k or v, and ``head`` then counts query heads or key-value heads.
    """

    name: str
    """Such as ``a3.h1``, ``m3`` or ``a3.h1.q``, which edges are named by."""
    layer: int
    """-1 for ``embed``, the number of layers for ``logits``."""
    head: int | None = None
    """Number of its head among its kind; None for MLPs, ``embed`` and ``logits``."""
    part: str | None = None
    """Of a reader in attention q, k or v; else None."""

    @property
    def is_mlp(self) -> bool:
        """Whether it is the MLP of its layer."""
        return self.head is None and self.name not in (EMBED, LOGITS)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """How readers see the residual stream, by layer.

    Where attention and MLP read in parallel through one norm, a change before it would reach both: there the MLP's is
    made behind it.
    """

    attention: tuple[nn.Module | None, ...]
    """The norm before attention, of each layer; None where it reads the stream itself."""
    mlp: tuple[Hook, ...]
    """What the MLP alone reads, of each layer: the stream, or what the norm that is attention's too makes of it."""
    shared: bool
    """Whether the MLP reads through attention's norm."""
    logits: nn.Module
    """The norm before the unembedding."""


def _entries(anatomy: Anatomy) -> Entries:
    """Find them.

    Raises:
        ValueError: a family whose readers do not each see the sum of the writers before them.
    """
    family = anatomy.family
    for present, why in (
        (family.post_layer_norm, "its norms stand in the residual stream itself, so that this is no sum of writers"),
        (family.mlp is None, "no module is its MLP, and that has no place to read from the stream"),
        (family.mixture is not None and family.mixture.dense, "its mixtures of experts put tokens out without a batch"),
        (family.latent is not None, "its keys and values are made of one small vector, which no head reads alone"),
    ):
        if present:
            raise ValueError(f"edges of a {model_type(anatomy)!r} model are not known: {why}. Score nodes instead")
    return Entries(
        attention=tuple(block.norm1 for block in anatomy.blocks),
        mlp=tuple(Hook(block.norm2 or block.mlp, entering=True) for block in anatomy.blocks),
        shared=family.norm2 is None and family.norm1 is not None,
        logits=require_final_norm(anatomy, purpose="wire"),
    )


@dataclass(frozen=True, eq=False)
class Wiring:
    """The ends of one model, in the order in which they are computed.

    Raises:
        ValueError: a family whose edges are not known.
    """

    anatomy: Anatomy
    """The parts of the model that is wired."""
    entries: Entries = field(init=False)
    """The norms through which its readers see the residual stream."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", _entries(self.anatomy))

    @cached_property
    def writers(self) -> tuple[End, ...]:
        """``embed``, then of each layer ``a{layer}.h{head}`` and ``m{layer}``."""
        writers = [End(EMBED, -1)]
        for layer in range(len(self.anatomy.blocks)):
            writers += [End(f"a{layer}.h{head}", layer, head) for head in range(self.anatomy.heads)]
            writers += [End(f"m{layer}", layer)]
        return tuple(writers)

    @cached_property
    def readers(self) -> tuple[End, ...]:
        """Of each layer ``a{layer}.h{head}.q``, ``.k``, ``.v`` and ``m{layer}``, then ``logits``."""
        readers = []
        for layer in range(len(self.anatomy.blocks)):
            for part in PARTS:
                heads = self.heads(part)
                readers += [End(f"a{layer}.h{head}.{part}", layer, head, part) for head in range(heads)]
            readers += [End(f"m{layer}", layer)]
        return (*readers, End(LOGITS, len(self.anatomy.blocks)))

    def heads(self, part: str) -> int:
        """How many readers of a part a layer has."""
        return self.anatomy.heads if part == "q" else self.anatomy.key_value_heads

    def feeds(self, writer: End, reader: End) -> bool:
        """Whether the reader sees the writer's output."""
        if writer.layer == reader.layer:
            return writer.head is not None and reader.is_mlp and not self.anatomy.family.parallel
        return writer.layer < reader.layer

    @cached_property
    def mask(self) -> Tensor:
        """``[writer, reader]``: where there is an edge."""
        return torch.tensor([[self.feeds(u, v) for v in self.readers] for u in self.writers])

    def stream(self, layer: int) -> Hook:
        """The residual stream as attention reads it."""
        return Hook(self.entries.attention[layer] or self.anatomy.blocks[layer].whole, entering=True)

    @cached_property
    def hooks(self) -> "WiringHooks":
        """Where the ends are in the running model."""
        return WiringHooks(self.anatomy)

    @cached_property
    def projections(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Weights ``[head, d_head, d_model]`` and bias ``[head, d_head]`` of queries, keys and values, by part and
        layer. Where one module makes all three, they are views of one matrix."""
        projections: dict[str, list[tuple[Tensor, Tensor]]] = {part: [] for part in PARTS}
        for layer in range(len(self.anatomy.blocks)):
            maps: dict[nn.Module, tuple[Tensor, Tensor]] = {}
            for part in PARTS:
                hook = self.hooks.parts[part][layer].change
                if hook.module not in maps:
                    maps[hook.module] = _affine(hook.module, width_of(self.anatomy))
                weights, bias = maps[hook.module]
                projections[part].append(
                    (hook.read(weights[None])[0].permute(1, 2, 0), hook.read(bias[None, None])[0, 0])
                )
        return projections

    def readers_in(self, layer: int, part: str | None) -> slice:
        """The columns of a layer's readers of one part; of its MLP for None."""
        columns = [i for i, v in enumerate(self.readers) if v.layer == layer and v.part == part]
        return slice(columns[0], columns[-1] + 1)

    def index(self, writer: str, reader: str) -> tuple[int, int]:
        """Row and column of an edge.

        Raises:
            ValueError: no such end, or no edge between them.
        """
        rows, columns = [u.name for u in self.writers], [v.name for v in self.readers]
        for name, known, what in ((writer, rows, "writer"), (reader, columns, "reader")):
            if name not in known:
                raise ValueError(f"{name!r} is not a {what} of this model; it has {', '.join(known[:6])} … {known[-1]}")
        row, column = rows.index(writer), columns.index(reader)
        if not self.mask[row, column]:
            raise ValueError(f"{reader} does not read from {writer}, which is computed after it")
        return row, column

    def owners(self, reader: End) -> tuple[str, ...]:
        """The nodes a reader belongs to: a key-value head serves a whole group of heads."""
        if reader.part is None:
            return (reader.name,)
        assert reader.head is not None
        group = self.anatomy.heads // self.heads(reader.part)
        return tuple(f"a{reader.layer}.h{head}" for head in range(reader.head * group, (reader.head + 1) * group))


class WiringHooks:
    """Hooks of queries, keys, values, heads and MLPs by layer."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.parts: dict[str, list[NodeHooks]] = {part: node_hooks(anatomy, part) for part in PARTS}
        self.z, self.mlp_out = node_hooks(anatomy, "z"), node_hooks(anatomy, "mlp_out")
        self.resid_pre = node_hooks(anatomy, "resid_pre")


def output_weights(anatomy: Anatomy, block: Block) -> Tensor:
    """``[head, d_head, d_model]``: what each entry of a head's output adds to the stream, before a post-norm."""
    weights = _affine(block.o, _inner_width(anatomy, block))[0].unflatten(0, (anatomy.heads, -1))
    return weights * anatomy.family.residual_multiplier


def output_bias(anatomy: Anatomy, block: Block) -> Tensor:
    """``[d_model]``: what attention adds to the stream, before a post-norm, whatever its heads put out."""
    return _affine(block.o, _inner_width(anatomy, block))[1] * anatomy.family.residual_multiplier


def head_projection(anatomy: Anatomy, block: Block, number: int) -> tuple[Tensor, Tensor]:
    """Weights ``[head, d_head, d_model]`` and bias ``[head, d_head]`` that make queries (0), keys (1) or values (2) of
    what attention reads."""
    weights, bias = _affine((block.q, block.k, block.v)[number], width_of(anatomy))
    read, _ = part_of_projection(anatomy, number)
    return read(weights).permute(1, 2, 0), read(bias)


def _inner_width(anatomy: Anatomy, block: Block) -> int:
    return next(block.o.parameters()).numel() // width_of(anatomy)


def width_of(anatomy: Anatomy) -> int:
    """Dimensions of the residual stream."""
    config: Any = anatomy.root.config
    return int(config.hidden_size)


@torch.no_grad()
def _affine(module: nn.Module, size: int) -> tuple[Tensor, Tensor]:
    """Weights ``[in, out]`` and bias of an affine map, read off what it does to unit vectors: so the many layouts of
    fused and transposed weights need not be known. Not called, so that no hook sees it."""
    weight = next(module.parameters())
    bias = module.forward(weight.new_zeros(1, size))[0]
    return module.forward(torch.eye(size, dtype=weight.dtype, device=weight.device)) - bias, bias
