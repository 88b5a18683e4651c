"""Exact patching of edges: readers that see other outputs of some writers than everybody else does.

In a pass, each reader's input is the residual stream plus, for the writers cut off from it, what they wrote in a
reference run minus what they write now. Any set of edges can be cut in one pass, and every row of a batch can cut
another set. Cutting all edges of a node is patching the node; cutting all edges is the reference run.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from circuits.anatomy.wiring import PARTS, Wiring, output_weights, projection
from circuits.runs.pair import Contrast, Session, contrast
from circuits.runs.runner import hook_at
from interp.models.bridge import unwrapped
from interp.sites.norms import linear_norm

TOKENS_AT_ONCE = 1024


class EdgePatcher:
    """Runs a task's base prompts with edges cut.

    Attributes:
        found: Both runs.
        reference: What cut writers are replaced by, ``[writer, n, position, d]``; of the source run unless set.
    """

    def __init__(self, session: Session, wiring: Wiring) -> None:
        self.session, self.wiring = session, wiring
        anatomy, spots = session.anatomy, wiring.spots
        self.projections = {
            part: [projection(b, p) for b, p in zip(anatomy.blocks, spots.parts[part], strict=True)] for part in PARTS
        }
        self.outputs = [output_weights(anatomy, block) for block in anatomy.blocks]
        self.post_norms = [
            None if block.attention_post_norm is None else linear_norm(block.attention_post_norm)
            for block in anatomy.blocks
        ]
        self.found: Contrast = contrast(session, [spots.resid_pre[0]])
        self.reference = self.written(session.task.source)

    @torch.no_grad()
    def written(self, tokens: Tensor) -> Tensor:
        """What every writer adds to the residual stream in a run of ``tokens``, ``[writer, n, position, d]``."""
        nothing = torch.zeros(1, *self.wiring.mask.shape, dtype=torch.bool)
        return self._run(tokens, nothing)[1]

    @property
    def rows_at_once(self) -> int:
        """How many sets of cut edges one pass takes."""
        return max(1, TOKENS_AT_ONCE // self.session.task.base.numel())

    @torch.no_grad()
    def logits(self, cut: Tensor) -> Tensor:
        """Last-position logits ``[row, n, vocab]`` of the base prompts with the edges ``cut [row, writer, reader]``."""
        found = [self._run(self.session.task.base, chunk)[0] for chunk in cut.split(self.rows_at_once)]
        return torch.cat(found)

    def effects(self, cut: Tensor) -> Tensor:
        """Changes ``[row, n]`` of the scaled metric."""
        return (self.found.measure(self.logits(cut)) - self.found.base_metric.detach()).double().cpu()

    def single_edges(self) -> Tensor:
        """The effect of every edge on its own, ``[n, writer, reader]``."""
        edges = self.wiring.mask.nonzero()
        cut = torch.zeros(len(edges), *self.wiring.mask.shape, dtype=torch.bool)
        cut[torch.arange(len(edges)), edges[:, 0], edges[:, 1]] = True
        effects = torch.zeros(len(self.session.task), *self.wiring.mask.shape, dtype=torch.float64)
        effects[:, edges[:, 0], edges[:, 1]] = self.effects(cut).T
        return effects

    def _run(self, tokens: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[row, n, vocab]`` and what was written ``[writer, row * n, position, d]``."""
        running, rows = _CutRun(self, cut), len(cut)
        with ExitStack() as hooks:
            for module, entering in running.actions:
                hooks.callback(hook_at(module, entering, running.act).remove)
            logits = self.session.runner.forward(tokens.repeat(rows, 1)).logits
        return logits.unflatten(0, (rows, -1)), torch.stack(running.written)


class _CutRun:
    """One pass with the edges ``cut [row, writer, reader]``: what was written so far, and what is done where."""

    def __init__(self, patcher: EdgePatcher, cut: Tensor) -> None:
        self.patcher, self.cut = patcher, cut
        self.written: list[Tensor] = []
        self.entering: dict[int, Tensor] = {}
        self.actions: dict[tuple[nn.Module, bool], list[Callable[[Tensor], Tensor]]] = {}
        wiring, anatomy = patcher.wiring, patcher.session.anatomy
        for layer, block in enumerate(anatomy.blocks):
            self.actions[block.whole, True] = [partial(self._keep_residual, layer)]
            for part in PARTS:
                module = wiring.spots.parts[part][layer].change.module
                self.actions.setdefault((module, False), []).append(partial(self._project, layer, part))
            self.actions[block.o, True] = [partial(self._keep_heads, layer)]
            self.actions[block.norm2, True] = [partial(self._enter, wiring.readers_in(layer, None))]
            self.actions[block.mlp_added, False] = [self._keep_mlp]
        last = len(wiring.readers)
        self.actions[anatomy.final_norm, True] = [partial(self._enter, slice(last - 1, last))]

    def act(self, module: nn.Module, entering: bool, value: Tensor) -> Tensor:
        for action in self.actions[module, entering]:
            value = action(value)
        return value

    def _more(self, columns: slice) -> Tensor | None:
        """What the readers ``columns`` see more: ``[reader, row * n, position, d]``, None for nothing."""
        chosen = self.cut[:, : len(self.written), columns]
        if not chosen.any():
            return None
        now = torch.stack(self.written).unflatten(1, (len(self.cut), -1))
        gap = self.patcher.reference[: len(self.written), None].to(now) - now
        return torch.einsum("ruv,urnpd->vrnpd", chosen.to(now), gap).flatten(1, 2)

    def _keep_residual(self, layer: int, value: Tensor) -> Tensor:
        if layer == 0:
            self.written.append(value)
        self.entering[layer] = value
        return value

    def _project(self, layer: int, part: str, value: Tensor) -> Tensor:
        wiring, block = self.patcher.wiring, self.patcher.session.anatomy.blocks[layer]
        more = self._more(wiring.readers_in(layer, part))
        if more is None:
            return value
        normed = unwrapped(block.norm1).forward(self.entering[layer] + more)
        weights, bias = self.patcher.projections[part][layer]
        new = torch.einsum("hnpd,had->npha", normed, weights) + bias
        spot = wiring.spots.parts[part][layer].change
        return value + spot.embed(new - spot.read(value))

    def _keep_heads(self, layer: int, value: Tensor) -> Tensor:
        z = self.patcher.wiring.spots.z[layer].value.read(value)
        heads = torch.einsum("npha,had->hnpd", z, self.patcher.outputs[layer])
        norm = self.patcher.post_norms[layer]
        if norm is not None:
            heads = norm.linear(heads, norm.scale(self.patcher.session.anatomy.blocks[layer].o.forward(value)))
        self.written.extend(heads)
        return value

    def _enter(self, columns: slice, value: Tensor) -> Tensor:
        more = self._more(columns)
        return value if more is None else value + more[0]

    def _keep_mlp(self, value: Tensor) -> Tensor:
        self.written.append(value)
        return value


def cut_all_but(wiring: Wiring, kept: Sequence[tuple[str, str]]) -> Tensor:
    """``[writer, reader]``: every edge but those kept.

    Raises:
        ValueError: an edge that the model does not have.
    """
    cut = wiring.mask.clone()
    for writer, reader in kept:
        cut[wiring.index(writer, reader)] = False
    return cut
