"""From a prompt to its graph: targets first, then the latents with the largest influence so far, batch after batch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from scipy import sparse
from torch import Tensor

from circuits.anatomy.anatomy import Anatomy
from circuits.graphs.graph import ERROR, LATENT, LINEAR_ERROR, TARGET, TOKEN, AttributionGraph, columns_of
from circuits.graphs.linear.local_model import Injection, LocalModel, local_model, open_anatomy, prompt_ids
from circuits.graphs.linear.rows import OF_AN_ENTRY, Rows
from circuits.graphs.linear.sources import Columns, ErrorSplit, Sources
from circuits.graphs.linear.targets import Target, Targets, resolve, sites_of
from circuits.graphs.linear.transcoders import Transcoder, Transcoders, kept_positions, transcoders_of
from circuits.runs.budget import MEMORY, at_once
from interp.models.source import source_of

MAX_NODES = 4096
_MOST_AT_ONCE = 256
_TOLERANCE = 1e-3
"""Of the identity, relative to the sum of absolute values; rounding in float32 is far below."""
_UPDATES = 16
"""How often, at most, influence is computed anew while rows are added."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a graph was made of, for interventions and measurements."""

    model: Any
    """The model that was given, a bridge or a plain one."""
    anatomy: Anatomy
    """The model's plain modules, block by block."""
    transcoders: tuple[Transcoder, ...]
    """One for each layer that has one, in the order of the layers."""
    ids: Int[Tensor, " position"]
    """Token ids of the prompt, one for each position."""
    kept: Tensor
    """Boolean ``[position]``: where transcoders stand in for MLPs."""
    targets: tuple[Target, ...]
    """What the graph explains, in the order of its last nodes."""
    split: ErrorSplit | None
    """By layer the linear map of the error; None where errors are whole."""


def attribution_graph(
    model: Any,
    prompt: str | Sequence[int] | Tensor,
    transcoders: Transcoders,
    *,
    targets: Targets = None,
    max_nodes: int = MAX_NODES,
    leave_out: Sequence[int] = (0,),
    split: ErrorSplit | None = None,
    memory: int = MEMORY,
) -> AttributionGraph:
    """What latents, tokens and errors add to each other and to the output, on one prompt (Ameisen et al. 2025).

    The model's MLPs are replaced by transcoders, with what these miss as constants (errors); norm scales and attention
    patterns are those of the run. Then every latent's pre-activation, and every target, is a sum over sources: an edge
    is what one source adds.

    Args:
        model: A bridge with raw weights or a plain Hugging Face model, in float32 or float64, of a family that the
            rules ``ln`` and ``ah`` know (docs/circuits.md).
        prompt: Text, or ids ``[position]``.
        transcoders: A transcoder set or cross-layer transcoder, the folder of one, or transcoders with their sites.
            MLPs without one are errors as a whole.
        targets: Tokens (texts or ids), :class:`Difference`, :class:`Direction`; by default the likeliest tokens.
        max_nodes: Most latents that become nodes; they are chosen by influence.
        leave_out: Positions at which no transcoder stands in: by default the first, whose massive activations would
            swamp the rest. What MLPs write there is a constant of its own (``left_out``), no error.
        split: By layer the linear map from an MLP's input to the linear part of its error (``fit_error_split``).
        memory: Bytes of gradients at once; more rows a backward pass.

    Raises:
        ValueError: a model, transcoders, prompt, targets or options that do not fit; inference mode.

    Example:
        >>> import circuits, interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> graph = circuits.attribution_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> graph.labels[-1], int(graph.mask(3).sum())
        (' time', 32)
    """
    if max_nodes < 1:
        raise ValueError(f"max_nodes is {max_nodes}; it must be 1 or more")
    began = time.perf_counter()
    ids = prompt_ids(model, prompt)
    anatomy = open_anatomy(model)
    given = transcoders_of(model, anatomy, transcoders)
    kept = kept_positions(len(ids), leave_out)
    tokenizer = getattr(model, "tokenizer", None)
    with local_model(anatomy, ids, given, kept=kept, sites=sites_of(targets)) as local:
        sources, resolved = Sources(local, kept, split), resolve(targets, local, tokenizer)
        found = _grown(local, sources, resolved, max_nodes, memory)
    labels = tuple(str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids.tolist())
    return AttributionGraph(
        model=source_of(model).name,
        prompt=prompt if isinstance(prompt, str) else "".join(labels) if tokenizer is not None else " ".join(labels),
        tokens=tuple(ids.tolist()),
        labels=labels,
        n_layers=len(anatomy.blocks),
        target_names=tuple(target.name for target in resolved),
        left_out_positions=tuple((~kept).nonzero().flatten().tolist()),
        cost={"forwards": 1.0, "backwards": float(found.pop("backwards")), "seconds": time.perf_counter() - began},
        about={
            "transcoders": [f"{one.read} -> layers {one.writes[0]}-{one.writes[-1]}" for one in given],
            "max_nodes": max_nodes,
            "split": split is not None,
        },
        source=Source(
            model=model, anatomy=anatomy, transcoders=given, ids=ids, kept=kept, targets=resolved, split=split
        ),
        **found,
    )


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """What a graph will take, known after one forward pass."""

    tokens: int
    """Number of tokens in the prompt."""
    n_active: int
    """Latents active on the prompt."""
    rows: int
    """Targets and latents that are pulled back, at most."""
    backwards: int
    """Batched backward passes, at most."""
    bytes: int
    """Of rows and gradients, beside the model, its transcoders and the graph of the forward pass."""

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens, {self.n_active:,} active latents; 1 forward, at most {self.backwards:,} batched"
            f" backwards for {self.rows:,} rows; {self.bytes / 2**20:,.0f} MiB for rows and gradients"
        )


def plan_graph(
    model: Any,
    prompt: str | Sequence[int] | Tensor,
    transcoders: Transcoders,
    *,
    targets: Targets = None,
    max_nodes: int = MAX_NODES,
    leave_out: Sequence[int] = (0,),
    memory: int = MEMORY,
) -> GraphPlan:
    """What :func:`attribution_graph` will take, with the same arguments; it raises as that.

    Example:
        >>> import interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> from circuits.graphs import plan_graph
        >>> plan = plan_graph(model, "Once upon a time", transcoders, max_nodes=32)
        >>> plan.tokens, plan.n_active > 32
        (6, True)
    """
    ids = prompt_ids(model, prompt)
    anatomy = open_anatomy(model)
    given = transcoders_of(model, anatomy, transcoders)
    kept = kept_positions(len(ids), leave_out)
    with local_model(anatomy, ids, given, kept=kept, sites=sites_of(targets)) as local:
        sources, resolved = Sources(local, kept), resolve(targets, local, getattr(model, "tokenizer", None))
        n_active = int((sources.columns.kind == LATENT).sum())
        latents = min(max_nodes, n_active)
        growing = _Growing(local, sources, resolved, latents, memory)
    rows, size = latents + len(resolved), growing.at_once
    step = _step(latents, size)
    chunks = -(-latents // step) if latents else 0
    return GraphPlan(
        tokens=len(ids),
        n_active=n_active,
        rows=rows,
        backwards=-(-len(resolved) // size) + chunks * -(-step // size),
        bytes=rows * min(growing.rows.width, len(sources.columns)) * OF_AN_ENTRY + min(size, rows) * growing.bytes_each,
    )


def _step(latents: int, at_once: int) -> int:
    """After how many rows influence is computed anew."""
    return max(at_once, -(-latents // _UPDATES))


class _Growing:
    """Rows, and which node each is of."""

    def __init__(self, local: LocalModel, sources: Sources, targets: Sequence[Target], most: int, memory: int) -> None:
        self.local, self.sources = local, sources
        self.rows = Rows(len(sources.columns), most + len(targets))
        self.column: list[int] = []
        self.layer: list[int] = []
        self.weights: list[float] = []
        self.pre: list[float] = []
        self.bias: list[float] = []
        self.left_out: list[float] = []
        self.backwards = 0
        size = local.embedding.element_size()
        self.bytes_each = (len(local.leaves) + 3) * local.embedding.numel() * size + 2 * len(sources.columns) * size
        self.at_once = at_once(_MOST_AT_ONCE, bytes_each=self.bytes_each, memory=memory)

    def add(
        self, injections: Sequence[Injection], offsets: Sequence[float], layers: Sequence[int],
        columns: Sequence[int], weights: Sequence[float],
    ) -> None:  # fmt: skip
        """Pull back one batch."""
        slopes = self.local.pull_back(injections, before=max(layers))
        effects = self.sources.effects(slopes)
        self.backwards += 1
        self.rows.add(effects.of_columns)
        self.layer += layers
        self.column += columns
        self.weights += weights
        self.left_out += effects.left_out.tolist()
        self.bias += [bias + offset for bias, offset in zip(effects.bias.tolist(), offsets, strict=True)]
        with torch.no_grad():
            values = self.local.values(injections).tolist()
        self.pre += [value + offset for value, offset in zip(values, offsets, strict=True)]

    def influence(self) -> np.ndarray:
        """Of every column, so far."""
        return self.rows.influence(np.array(self.weights), np.array(self.column), np.array(self.layer))


def _grown(
    local: LocalModel, sources: Sources, targets: Sequence[Target], max_nodes: int, memory: int
) -> dict[str, Any]:
    columns = sources.columns
    latents = np.flatnonzero(columns.kind == LATENT)
    growing = _Growing(local, sources, targets, min(max_nodes, len(latents)), memory)
    for begin in range(0, len(targets), growing.at_once):
        some = targets[begin : begin + growing.at_once]
        growing.add(
            [t.injection for t in some], [t.offset for t in some], [t.layer for t in some], [-1] * len(some),
            [t.weight for t in some],
        )  # fmt: skip
    by_layer = {one.layer: one for one in local.transcoders}
    known = np.zeros(len(columns), dtype=bool)
    left = min(max_nodes, len(latents))
    step = _step(left, growing.at_once)
    while left:
        influence = growing.influence()
        candidates = latents[~known[latents] & (influence[latents] > 0)]
        if not len(candidates):
            break
        chosen = candidates[np.argsort(-influence[candidates], kind="stable")][: min(step, left)]
        # Those of one batch share a backward pass, which begins at the last of their layers.
        chosen = chosen[np.argsort(columns.layer[chosen], kind="stable")]
        for begin in range(0, len(chosen), growing.at_once):
            _add_latents(growing, columns, chosen[begin : begin + growing.at_once], by_layer)
        known[chosen] = True
        left -= len(chosen)
    return _finished(growing, columns, targets, len(latents))


def _add_latents(growing: _Growing, columns: Columns, some: np.ndarray, by_layer: dict[int, Transcoder]) -> None:
    injections, offsets = [], []
    for column in some.tolist():
        one = by_layer[int(columns.layer[column])]
        index = torch.tensor([int(columns.index[column])], device=one.part.W_enc.device)
        injections.append(Injection(one.read, int(columns.position[column]), one.encoder(index)[0]))
        offsets.append(float(one.offset(index)[0]))
    growing.add(injections, offsets, columns.layer[some].tolist(), some.tolist(), [0.0] * len(some))


def _finished(growing: _Growing, columns: Columns, targets: Sequence[Target], n_active: int) -> dict[str, Any]:
    """Nodes in their final order, and the adjacency between them."""
    column = np.array(growing.column)
    selected = np.sort(column[column >= 0])
    order = [selected, *(np.flatnonzero(columns.kind == kind) for kind in (ERROR, LINEAR_ERROR, TOKEN))]
    old = np.concatenate(order)
    nodes, n_targets = len(old) + len(targets), len(targets)
    new = np.full(len(columns), -1)
    new[old] = np.arange(len(old))
    own = np.concatenate([np.arange(len(old), nodes), new[column[n_targets:]]])
    rows = growing.rows.matrix()
    inside = sparse.csr_array(rows[:, old])
    coordinates = inside.tocoo()
    adjacency = sparse.csr_array(
        (coordinates.data, (own[coordinates.coords[0]], coordinates.coords[1])), shape=(nodes, nodes)
    )
    sums = {"pre_activation": growing.pre, "bias": growing.bias, "left_out": growing.left_out}
    known = {name: np.full(nodes, np.nan) for name in (*sums, "unselected")}
    for name, values in sums.items():
        known[name][own] = values
    known["unselected"][own] = np.array(growing.rows.totals) - inside.sum(1)
    _check_identity(growing)
    weights = np.zeros(nodes)
    weights[len(old) :] = [target.weight for target in targets]
    made = Columns(
        kind=np.full(n_targets, TARGET, np.int8),
        layer=np.array([target.layer for target in targets], np.int16),
        position=np.array([target.injection.position % len(growing.local.ids) for target in targets], np.int32),
        index=np.array([-1 if target.token is None else target.token for target in targets]),
        value=np.array(growing.pre[:n_targets], np.float32),
    )
    picked = Columns(**{name: getattr(columns, name)[old] for name in ("kind", "layer", "position", "index", "value")})
    return {
        "nodes": columns_of([picked, made]),
        "adjacency": adjacency,
        "weights": weights,
        "n_active": n_active,
        "backwards": growing.backwards,
        **known,
    }


def _check_identity(growing: _Growing) -> None:
    """Whatever adds to a target must add up to it: if not, something in the model runs that this map does not know.

    Raises:
        ValueError: it does not.
    """
    total = np.array(growing.rows.totals) + growing.bias + growing.left_out
    size = growing.rows.sizes + np.abs(growing.bias) + np.abs(growing.left_out) + 1e-6
    wrong = np.abs(total - growing.pre) / size
    if (worst := float(wrong.max())) > _TOLERANCE:
        raise ValueError(
            f"what adds to a target of this model does not add up to it: {worst:.1e} of the sum of absolute values is"
            f" missing, of row {int(wrong.argmax())}. Some part of it is not in the frozen map (weights or modules that"
            " were changed); no graph is drawn that would leave it out"
        )
