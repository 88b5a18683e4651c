"""Exact patching of edges: readers that see other outputs of some writers than everybody else does.

In a pass, each reader's input is the residual stream plus, for the writers cut off from it, what they wrote in a
reference run minus what they write now. Any set of edges can be cut in one pass, and every row of a batch can cut
another set. Cutting all edges of a node is patching the node; cutting all edges is the reference run.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from circuits.anatomy import Block
from circuits.nodes import Places
from circuits.norms import linear_norm
from circuits.running import hook_at
from circuits.session import Contrast, Session, contrast
from circuits.wiring import PARTS, Wiring, output_weights, projection
from interp.plain_module import unwrapped

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
        self._values = {
            part: [projection(b, p) for b, p in zip(anatomy.blocks, spots.parts[part], strict=True)] for part in PARTS
        }
        self._outputs = [output_weights(anatomy, block) for block in anatomy.blocks]
        self._post_norms = [
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

    @torch.no_grad()
    def logits(self, cut: Tensor) -> Tensor:
        """Last-position logits ``[row, n, vocab]`` of the base prompts with the edges ``cut [row, writer, reader]``."""
        rows = max(1, TOKENS_AT_ONCE // self.session.task.base.numel())
        found = [self._run(self.session.task.base, chunk)[0] for chunk in cut.split(rows)]
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
        wiring, blocks, rows = self.wiring, self.session.anatomy.blocks, len(cut)
        written: list[Tensor] = []
        entering: dict[int, Tensor] = {}

        def shift(columns: slice) -> Tensor | None:
            """What the readers ``columns`` see more: ``[reader, row * n, position, d]``, None for nothing."""
            chosen = cut[:, : len(written), columns]
            if not chosen.any():
                return None
            now = torch.stack(written).unflatten(1, (rows, -1))
            gap = self.reference[: len(written), None].to(now) - now
            return torch.einsum("ruv,urnpd->vrnpd", chosen.to(now), gap).flatten(1, 2)

        def change(module: nn.Module, entering_it: bool, value: Tensor) -> Tensor:
            for act in actions.get((module, entering_it), []):
                value = act(value)
            return value

        def residual(layer: int) -> Any:
            def act(value: Tensor) -> Tensor:
                if layer == 0:
                    written.append(value)
                entering[layer] = value
                return value

            return act

        def project(layer: int, part: str, place: Places) -> Any:
            def act(value: Tensor) -> Tensor:
                more = shift(wiring.readers_in(layer, part))
                if more is None:
                    return value
                normed = unwrapped(blocks[layer].norm1).forward(entering[layer] + more)
                weights, bias = self._values[part][layer]
                new = torch.einsum("hnpd,had->npha", normed, weights) + bias
                return value + place.change.embed(new - place.change.read(value))

            return act

        def keep_heads(layer: int, block: Block) -> Any:
            def act(value: Tensor) -> Tensor:
                heads = torch.einsum("npha,had->hnpd", wiring.spots.z[layer].value.read(value), self._outputs[layer])
                norm = self._post_norms[layer]
                if norm is not None:
                    heads = norm.linear(heads, norm.scale(block.o.forward(value)))
                written.extend(heads)
                return value

            return act

        def enter(columns: slice) -> Any:
            def act(value: Tensor) -> Tensor:
                more = shift(columns)
                return value if more is None else value + more[0]

            return act

        def keep_mlp(value: Tensor) -> Tensor:
            written.append(value)
            return value

        actions: dict[tuple[nn.Module, bool], list[Any]] = {}
        for layer, block in enumerate(blocks):
            actions[block.whole, True] = [residual(layer)]
            for part in PARTS:
                place = wiring.spots.parts[part][layer]
                actions.setdefault((place.change.module, False), []).append(project(layer, part, place))
            actions[block.o, True] = [keep_heads(layer, block)]
            actions[block.norm2, True] = [enter(wiring.readers_in(layer, None))]
            actions[block.mlp_added, False] = [keep_mlp]
        actions[self.session.anatomy.final_norm, True] = [enter(slice(len(wiring.readers) - 1, len(wiring.readers)))]
        with ExitStack() as hooks:
            for module, entering_it in actions:
                hooks.callback(hook_at(module, entering_it, change).remove)
            logits = self.session.runner.forward(tokens.repeat(rows, 1)).logits
        return logits.unflatten(0, (rows, -1)), torch.stack(written)


def cut_all_but(wiring: Wiring, kept: Sequence[tuple[str, str]]) -> Tensor:
    """``[writer, reader]``: every edge but those kept.

    Raises:
        ValueError: an edge that the model does not have.
    """
    cut = wiring.mask.clone()
    for writer, reader in kept:
        cut[wiring.index(writer, reader)] = False
    return cut
