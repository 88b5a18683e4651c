"""Change latents and see what follows: as the graph claims it, with frozen patterns, or in the model as it is.

==================  =================================================================================================
mode                what is held as it was on the prompt
==================  =================================================================================================
``direct``          patterns, norm scales, and what MLPs write but for skip connections: what an edge claims
``frozen_attention`` patterns alone; norms and MLPs answer
``live``            nothing
==================  =================================================================================================

A change of a latent is added to the output of every MLP that it writes to. Patterns are held by holding queries and
keys, so that it does not matter how attention is computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, part_of_projection
from circuits.graphs.interventions.changes import MODES, LatentChange
from circuits.graphs.linear.local_model import UNEMBEDDING, Injection, reading_place
from circuits.graphs.linear.transcoders import Transcoder, own_of
from circuits.runs.runner import hook_at
from interp.sites.norms import LinearNorm, linear_norm
from interp.sites.site import Site

EMBEDDING = -1
"""As the layer of an addition: the output of the module that embeds tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rerun:
    """One forward pass, of ``rows`` copies of a prompt that were changed differently."""

    at: Mapping[Site, Float[Tensor, "rows position d"]]
    """What passed where transcoders read, and what entered the unembedding (at the last position alone)."""
    logits: Float[Tensor, "rows vocab"]
    """Logits at the last position, a row for each copy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Clean:
    """What the unchanged prompt left: inputs and outputs of modules."""

    entering: Mapping[nn.Module, Tensor]
    leaving: Mapping[nn.Module, Tensor]
    run: Rerun


class Reruns:
    """Runs one prompt again and again with changes.

    Args:
        anatomy: Of plain modules.
        ids: The prompt.
        transcoders: Of that model.
        kept: Positions at which they stand in.
        sites: Places to read beside those of the transcoders.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        ids: Int[Tensor, " position"],
        transcoders: tuple[Transcoder, ...],
        kept: Tensor,
        sites: Iterable[Site] = (),
    ) -> None:
        self.anatomy, self.ids, self.transcoders = anatomy, ids, transcoders
        self.kept = kept.to(ids.device)
        self.sites = dict.fromkeys([*(one.read for one in transcoders), *sites])
        self.forwards = 0
        self.clean = self._first()

    @torch.no_grad()
    def _first(self) -> _Clean:
        entering: dict[nn.Module, Tensor] = {}
        leaving: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, is_entering: bool, value: Tensor) -> Tensor:
            (entering if is_entering else leaving)[module] = value.clone()
            return value

        blocks, norms = self.anatomy.blocks, self.anatomy.norms
        ends = [*norms, *(module for block in blocks for module in (block.q, block.k, block.mlp_added))]
        with ExitStack() as hooks:
            for module in norms:
                hooks.callback(hook_at(module, True, keep).remove)
            for module in dict.fromkeys(ends):
                hooks.callback(hook_at(module, False, keep).remove)
            return _Clean(entering=entering, leaving=leaving, run=self._forward(1))

    @torch.no_grad()
    def run(
        self,
        mode: str,
        *,
        rows: int = 1,
        additions: Mapping[int, Float[Tensor, "rows position d"]] | None = None,
        changes: Sequence[Sequence[LatentChange]] = (),
    ) -> Rerun:
        """One forward of ``rows`` copies.

        Args:
            mode: One of ``MODES``.
            rows: How many.
            additions: By layer, what is added to what the MLP adds to the residual stream; to the tokens' embeddings
                for the layer ``EMBEDDING``.
            changes: For each row the latents that change.

        Raises:
            ValueError: an unknown mode.
        """
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
        added: dict[int, Tensor] = dict(additions or {})
        with ExitStack() as hooks:
            if mode != "live":
                self._hold_patterns(hooks)
            if mode == "direct":
                self._hold_norms(hooks)
            seen: dict[Site, Tensor] = {}
            for one in self.transcoders:
                self._follow(hooks, one, mode, rows, changes, added, seen)
            for layer in range(len(self.anatomy.blocks)):
                self._write(hooks, layer, mode, added, seen)
            if EMBEDDING in added:
                module = self.anatomy.embedding_projection or self.anatomy.embedding
                more = added[EMBEDDING]
                hooks.callback(hook_at(module, False, lambda _m, _e, value: value + more.to(value.dtype)).remove)
            return self._forward(rows)

    def _forward(self, rows: int) -> Rerun:
        at: dict[Site, Tensor] = {}
        root: Any = self.anatomy.root

        def look(site: Site, convert: Any) -> Any:
            def looked(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
                at[site] = self._by_row(convert(value), rows).clone()
                return value

            return looked

        with ExitStack() as hooks:
            for site in self.sites:
                module, entering, convert = reading_place(self.anatomy, site)
                hooks.callback(hook_at(module, entering, look(site, convert)).remove)
            head = root.get_output_embeddings()
            hooks.callback(hook_at(head, True, look(UNEMBEDDING, lambda value: value)).remove)
            output = root(input_ids=self.ids.expand(rows, -1), use_cache=False, logits_to_keep=1)
        self.forwards += rows
        return Rerun(at=at, logits=output.logits[:, -1])

    @staticmethod
    def _by_row(value: Tensor, rows: int) -> Tensor:
        """Some families' MLPs see all rows as one."""
        return value.reshape(rows, -1, value.shape[-1])

    @staticmethod
    def _like(clean: Tensor, value: Tensor) -> Tensor:
        """As often as ``value`` has rows."""
        return clean.repeat(len(value) // len(clean), *(1 for _ in clean.shape[1:]))

    def _hold_patterns(self, hooks: ExitStack) -> None:
        read, embed = part_of_projection(self.anatomy, 2)

        def hold(module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            return self._like(self.clean.leaving[module], value)

        def hold_all_but_values(module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            clean = self._like(self.clean.leaving[module], value)
            return clean + embed(read(value)) - embed(read(clean))

        for block in self.anatomy.blocks:
            if block.q is block.k:
                hooks.callback(hook_at(block.q, False, hold_all_but_values).remove)
            else:
                for module in (block.q, block.k):
                    hooks.callback(hook_at(module, False, hold).remove)

    def _hold_norms(self, hooks: ExitStack) -> None:
        def hold(norm: LinearNorm, scale: Tensor, module: nn.Module, args: tuple[Any, ...], value: Tensor) -> Tensor:
            moved = args[0] - self._like(self.clean.entering[module], value)
            change = norm.linear(moved, self._like(scale, value))
            return self._like(self.clean.leaving[module], value) + change.to(value.dtype)

        for module in self.anatomy.norms:
            norm = linear_norm(module)
            scale = norm.scale(self.clean.entering[module])
            hooks.callback(module.register_forward_hook(partial(hold, norm, scale)).remove)

    def _follow(
        self,
        hooks: ExitStack,
        one: Transcoder,
        mode: str,
        rows: int,
        changes: Sequence[Sequence[LatentChange]],
        added: dict[int, Tensor],
        seen: dict[Site, Tensor],
    ) -> None:
        """Where a transcoder reads: take down what passes, and see how much more of its latents there is to be."""
        mine = [(row, change) for row, its in enumerate(changes) for change in its if change.layer == one.layer]
        if not mine and not (mode == "direct" and one.part.skip):
            return
        module, entering, convert = reading_place(self.anatomy, one.read)

        def follow(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            x = seen[one.read] = self._by_row(convert(value), rows)
            if mine:
                self._add_changes(one, mine, x if mode != "direct" else self.clean.run.at[one.read].expand_as(x), added)
            return value

        hooks.callback(hook_at(module, entering, follow).remove)

    def _add_changes(
        self, one: Transcoder, mine: Sequence[tuple[int, LatentChange]], x: Tensor, added: dict[int, Tensor]
    ) -> None:
        for row, change in mine:
            where = self.kept.nonzero().flatten() if change.position is None else x.new_tensor([change.position]).long()
            latents = one.part.encode(x[row, where].to(one.part.W_enc.dtype))
            value = (latents.values * (latents.indices == change.index)).sum(-1)
            delta = change.delta(value)
            index = torch.tensor([change.index], device=x.device)
            for number, layer in enumerate(one.writes):
                more = torch.zeros_like(x) if layer not in added else added[layer].clone()
                more[row, where] += (delta[:, None] * one.decoder(index, number)).to(x.dtype)
                added[layer] = more

    def _write(
        self, hooks: ExitStack, layer: int, mode: str, added: dict[int, Tensor], seen: dict[Site, Tensor]
    ) -> None:
        module, factor = self.anatomy.blocks[layer].mlp_added, self.anatomy.family.residual_multiplier
        own = own_of(self.transcoders, layer)

        def write(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            value = self._like(self.clean.leaving[module], value) if mode == "direct" else value
            if layer in added:
                value = value + (added[layer] / factor).reshape(value.shape).to(value.dtype)
            if mode == "direct" and own is not None and own.part.skip:
                moved = (seen[own.read] - self.clean.run.at[own.read]) * self.kept[:, None]
                value = value + (own.skip(moved) / factor).reshape(value.shape).to(value.dtype)
            return value.clone()

        hooks.callback(hook_at(module, False, write).remove)


class Readout:
    """Pre-activations of latents, and values of targets, in a pass.

    Args:
        transcoders: Of the model.
        layer: Of each latent, ``[n]``, as are the next two.
        position: Where it is read.
        index: Its number.
        targets: Injections that are read behind them.
    """

    def __init__(
        self,
        transcoders: Sequence[Transcoder],
        layer: np.ndarray,
        position: np.ndarray,
        index: np.ndarray,
        targets: Sequence[Injection] = (),
    ) -> None:
        self.size = len(layer) + len(targets)
        self._groups: list[tuple[Site, Tensor, Tensor, Tensor]] = []
        for one in transcoders:
            mine = np.flatnonzero(layer == one.layer)
            if len(mine):
                vectors = one.encoder(torch.from_numpy(index[mine]).to(one.part.W_enc.device))
                self._groups.append(
                    (one.read, torch.from_numpy(mine), torch.from_numpy(position[mine]).long(), vectors)
                )
        for number, target in enumerate(targets, len(layer)):
            at = torch.tensor([target.position])
            self._groups.append((target.site, torch.tensor([number]), at, target.vector[None]))

    def __call__(self, run: Rerun) -> Float[Tensor, "rows n"]:
        """Without offsets, which no change moves; in float64."""
        rows = len(run.logits)
        found = torch.zeros(rows, self.size, dtype=torch.float64)
        for site, where, position, vectors in self._groups:
            x = run.at[site][:, position.to(run.logits.device)]
            found[:, where] = (x * vectors.to(x.dtype)).sum(-1).double().cpu()
        return found
