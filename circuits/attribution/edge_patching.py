"""Exact patching of edges: readers that see other outputs of some writers than everybody else does.

In a pass, each reader's input is the residual stream plus, for the writers cut off from it, what they wrote in a
reference run minus what they write now. Any set of edges can be cut in one pass, and every row of a batch can cut
another set. Cutting all edges of a node is patching the node; cutting all edges is the reference run.

Where cut writers are replaced by nothing, that difference is a rounding error of the size of the whole stream, which a
norm behind it blows up to the size of a signal. There a reader's input is summed anew from the writers it keeps.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from circuits.anatomy.wiring import PARTS, End, Wiring, output_bias, output_weights, width_of
from circuits.runs.budget import MEMORY, at_once, slices
from circuits.runs.pair import Contrast, Session, contrast
from circuits.runs.runner import hook_at
from interp.models.bridge import unwrapped
from interp.sites.norms import linear_norm
from interp.terminal.progress import counted

# Rows of one pass are filled up to about this many tokens at most: enough to keep a processor busy.
TOKENS_AT_ONCE = 1024
# Of what all writers wrote: in the reference run, in this one, of those that are cut, their difference, as it is
# multiplied, and as much for the pass itself.
COPIES = 6


class EdgePatcher:
    """Runs a task's base prompts with edges cut, as many prompts and sets of edges in one pass as ``memory`` takes.

    Attributes:
        pair: Both runs.
        reference: What cut writers are replaced by, ``[writer, n, position, d]``; of the source run unless set (then it
            is never held for more prompts than one pass takes), and None for nothing: a reader whose writers are all
            cut then sees the biases of attention outputs, which no head writes, or exactly 0 where there are none.
    """

    def __init__(self, session: Session, wiring: Wiring, *, memory: int = MEMORY) -> None:
        self.session, self.wiring = session, wiring
        anatomy = session.anatomy
        self.outputs = [output_weights(anatomy, block) for block in anatomy.blocks]
        self.output_biases = [output_bias(anatomy, block) for block in anatomy.blocks]
        self.post_norms = [
            None if block.attention_post_norm is None else linear_norm(block.attention_post_norm)
            for block in anatomy.blocks
        ]
        self.pair: Contrast = contrast(session, [])
        self._base_metric = self.pair.measure.raw(self.pair.base.logits.detach()).double().cpu()
        self._reference: Tensor | None = None
        self._resample = True
        self._last: tuple[slice, Tensor] | None = None
        n, length = session.task.base.shape
        token = COPIES * len(wiring.writers) * width_of(anatomy) * self.outputs[0].element_size()
        self.prompts_at_once = at_once(n, bytes_each=length * token, memory=memory)
        self._prompts = slices(n, self.prompts_at_once)
        tokens = min(TOKENS_AT_ONCE, memory // token)
        self.rows_at_once = max(1, tokens // (length * self.prompts_at_once))
        """How many sets of cut edges one pass takes."""

    @property
    def reference(self) -> Tensor | None:
        return self.written(self.session.task.source) if self._resample else self._reference

    @reference.setter
    def reference(self, value: Tensor | None) -> None:
        self._reference, self._resample = value, False

    def written(self, tokens: Tensor) -> Tensor:
        """What every writer adds to the residual stream in a run of ``tokens``, ``[writer, n, position, d]``."""
        return torch.cat([self._written(part) for part in tokens.split(self.prompts_at_once)], 1)

    @torch.no_grad()
    def _written(self, tokens: Tensor) -> Tensor:
        nothing = torch.zeros(1, *self.wiring.mask.shape, dtype=torch.bool)
        return torch.stack(self._run(tokens, nothing, None)[1])

    def _reference_of(self, prompts: slice) -> Tensor | None:
        if not self._resample:
            return None if self._reference is None else self._reference[:, prompts]
        if self._last is None or self._last[0] != prompts:
            self._last = None  # so that there are never two
            self._last = (prompts, self._written(self.session.task.source[prompts]))
        return self._last[1]

    @torch.no_grad()
    def logits(self, cut: Tensor) -> Tensor:
        """Last-position logits ``[row, n, vocab]`` of the base prompts with the edges ``cut [row, writer, reader]``."""
        found = []
        for prompts in self._prompts:
            tokens, reference = self.session.task.base[prompts], self._reference_of(prompts)
            passes = counted(cut.split(self.rows_at_once), "run circuits", unit="passes")
            found.append(torch.cat([self._run(tokens, rows, reference)[0] for rows in passes]))
        return torch.cat(found, 1)

    @torch.no_grad()
    def metric(self, rows: int, cut: Callable[[slice], Tensor]) -> Tensor:
        """The raw metric ``[row, n]`` of ``rows`` sets of cut edges, of which ``cut`` makes some at a time."""
        found = torch.zeros(rows, len(self.session.task), dtype=torch.float64)
        for prompts in self._prompts:
            measure = self.pair.measure.of(prompts)
            tokens, reference = self.session.task.base[prompts], self._reference_of(prompts)
            for some in counted(list(slices(rows, self.rows_at_once)), "run circuits", unit="passes"):
                logits = self._run(tokens, cut(some), reference)[0]
                found[some, prompts] = measure.raw(logits).double().cpu()
        return found

    def effects(self, edges: Tensor) -> Tensor:
        """Changes ``[edge, n]`` of the scaled metric by each edge ``edges [edge, (writer, reader)]`` on its own."""

        def cut(some: slice) -> Tensor:
            chosen = edges[some]
            found = torch.zeros(len(chosen), *self.wiring.mask.shape, dtype=torch.bool)
            found[torch.arange(len(chosen)), chosen[:, 0], chosen[:, 1]] = True
            return found

        measure = self.pair.measure
        return (self.metric(len(edges), cut) - self._base_metric) / (measure.clean - measure.corrupt)

    def single_edges(self) -> Tensor:
        """The effect of every edge on its own, ``[n, writer, reader]``."""
        edges = self.wiring.mask.nonzero()
        effects = torch.zeros(len(self.session.task), *self.wiring.mask.shape, dtype=torch.float64)
        effects[:, edges[:, 0], edges[:, 1]] = self.effects(edges).T
        return effects

    def _run(self, tokens: Tensor, cut: Tensor, reference: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Logits ``[row, n, vocab]`` and what each writer wrote, ``[row * n, position, d]``."""
        running, rows = _CutRun(self, cut, reference), len(cut)
        with ExitStack() as hooks:
            for module, entering in running.actions:
                hooks.callback(hook_at(module, entering, running.act).remove)
            logits = self.session.runner.forward(tokens.repeat(rows, 1)).logits
        running.actions.clear()  # they hold the run, which holds them: what was written would stay until a collection
        return logits.unflatten(0, (rows, -1)), running.written


class _CutRun:
    """One pass with the edges ``cut [row, writer, reader]``: what was written so far, and what is done where."""

    def __init__(self, patcher: EdgePatcher, cut: Tensor, reference: Tensor | None) -> None:
        self.patcher, self.cut, self.reference = patcher, cut, reference
        self.written: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.entering: dict[int, Tensor] = {}
        self.actions: dict[tuple[nn.Module, bool], list[Callable[[Tensor], Tensor]]] = {}
        wiring, anatomy = patcher.wiring, patcher.session.anatomy
        for layer, block in enumerate(anatomy.blocks):
            self.actions[block.whole, True] = [partial(self._keep_residual, layer)]
            for part in PARTS:
                module = wiring.hooks.parts[part][layer].change.module
                self.actions.setdefault((module, False), []).append(partial(self._project, layer, part))
            self.actions[block.o, True] = [partial(self._keep_heads, layer)]
            mlp = wiring.entries.mlp[layer]
            self.actions[mlp.module, mlp.entering] = [partial(self._enter_mlp, layer)]
            self.actions[block.mlp_added, False] = [partial(self._keep_mlp, layer)]
        last = len(wiring.readers)
        self.actions[wiring.entries.logits, True] = [partial(self._enter, slice(last - 1, last))]

    def act(self, module: nn.Module, entering: bool, value: Tensor) -> Tensor:
        for action in self.actions[module, entering]:
            value = action(value)
        return value.clone() if self.patcher.session.anatomy.family.in_place else value

    def _seen(self, columns: slice, value: Tensor) -> Tensor | None:
        """What the readers ``columns`` of the stream ``value`` see, ``[reader, row * n, position, d]``; None where
        nothing is cut from them."""
        chosen = self.cut[:, : len(self.written), columns]
        if not chosen.any():
            return None
        rows = (len(self.cut), -1)
        if self.reference is None:
            kept = self.patcher.wiring.mask[: len(self.written), columns] & ~chosen
            now = torch.stack(self.written).unflatten(1, rows)
            return self._summed(kept, now) + sum(self._biases_seen_by(columns), torch.zeros_like(value))
        some = chosen.any(0).any(-1).nonzero().flatten()
        now = torch.stack([self.written[u] for u in some.tolist()]).unflatten(1, rows)
        gap = self.reference[some.to(now.device), None].to(now) - now
        return value + self._summed(chosen[:, some], gap)

    @staticmethod
    def _summed(chosen: Tensor, written: Tensor) -> Tensor:
        """``[reader, row * n, position, d]`` from ``[row, writer, reader]`` and ``[writer, row, n, position, d]``."""
        return torch.einsum("ruv,urnpd->vrnpd", chosen.to(written), written).flatten(1, 2)

    def _biases_seen_by(self, columns: slice) -> list[Tensor]:
        wiring = self.patcher.wiring
        sees = [
            wiring.feeds(End("", layer, head=0), wiring.readers[columns.start]) for layer in range(len(self.biases))
        ]
        return [bias for bias, seen in zip(self.biases, sees, strict=True) if seen]

    def _keep_residual(self, layer: int, value: Tensor) -> Tensor:
        if layer == 0:
            self.written.append(value)
        self.entering[layer] = value
        return value

    def _project(self, layer: int, part: str, value: Tensor) -> Tensor:
        wiring = self.patcher.wiring
        seen = self._seen(wiring.readers_in(layer, part), self.entering[layer])
        if seen is None:
            return value
        weights, bias = wiring.projections[part][layer]
        new = torch.einsum("hnpd,had->npha", self._normed(layer, seen), weights) + bias
        hook = wiring.hooks.parts[part][layer].change
        return value - hook.embed(hook.read(value)) + hook.embed(new)  # in this order exact: norms may follow

    def _normed(self, layer: int, seen: Tensor) -> Tensor:
        norm = self.patcher.wiring.entries.attention[layer]
        return seen if norm is None else unwrapped(norm).forward(seen)

    def _keep_heads(self, layer: int, value: Tensor) -> Tensor:
        z = self.patcher.wiring.hooks.z[layer].value.read(value)
        heads = torch.einsum("npha,had->hnpd", z, self.patcher.outputs[layer])
        bias = self.patcher.output_biases[layer]
        norm = self.patcher.post_norms[layer]
        if norm is not None:
            scale = norm.scale(self.patcher.session.anatomy.blocks[layer].o.forward(value))
            heads, bias = norm.linear(heads, scale), norm.linear(bias, scale)
            bias = bias if norm.bias is None else bias + norm.bias
        self.written.extend(heads)
        self.biases.append(bias)
        return value

    def _enter(self, columns: slice, value: Tensor) -> Tensor:
        seen = self._seen(columns, value)
        return value if seen is None else seen[0]

    def _enter_mlp(self, layer: int, value: Tensor) -> Tensor:
        wiring = self.patcher.wiring
        columns = wiring.readers_in(layer, None)
        if not wiring.entries.shared:
            return self._enter(columns, value)
        seen = self._seen(columns, self.entering[layer])
        return value if seen is None else self._normed(layer, seen[0])

    def _keep_mlp(self, layer: int, value: Tensor) -> Tensor:
        self.written.append(self.patcher.wiring.hooks.mlp_out[layer].value.read(value))
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
