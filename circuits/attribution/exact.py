"""Exact activation patching: one node at a time, many at once in the rows of a batch.

A cell whose activation is the same in both runs has no effect and is not run. A patch in layer l leaves everything
before l alone, so passes start there; and none changes the tokens before the first that differs, whose keys and values
are computed once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.anatomy.nodes import Hook, NodeHooks
from circuits.runs.pair import Contrast, Session
from circuits.runs.runner import Start
from circuits.tasks.roles import sum_by_role
from interp.terminal.progress import counted

# Rows of one pass are filled up to about this many tokens: enough to keep a processor busy, little beside the weights.
TOKENS_AT_ONCE = 2048


def patch_cells(
    session: Session,
    pair: Contrast,
    *,
    at: Hook,
    layer: int | None,
    cells: Sequence[tuple[int, ...]],
    change: Callable[[tuple[int, ...]], Tensor],
) -> Tensor:
    """Effects ``[cell, n]`` on the scaled metric of adding ``change(cell)``, ``[n, live position, (unit,) d]``, at a
    hook of a layer, or of the embeddings for None. Live positions are those behind the tokens that both runs share."""
    shared = session.prefix
    tokens = session.task.base[:, shared.length :]
    at_once = max(1, TOKENS_AT_ONCE // tokens.numel())
    residual = None if layer is None else live(session, pair.base.value(session.residual[layer].value)).detach()
    effects = []
    for begin in range(0, len(cells), at_once):
        chunk = cells[begin : begin + at_once]
        passed = session.runner.forward(
            tokens.repeat(len(chunk), 1),
            add={at: torch.cat([change(cell) for cell in chunk])},
            start=None if layer is None or residual is None else Start(layer, residual.repeat(len(chunk), 1, 1)),
            cache=shared.cache(len(chunk)),
        )
        metric = pair.measure(passed.logits.unflatten(0, (len(chunk), -1)))
        effects.append((metric - pair.base_metric.detach()).double().cpu())
    return torch.cat(effects) if effects else torch.zeros(0, len(tokens), dtype=torch.float64)


def live(session: Session, value: Tensor) -> Tensor:
    """The positions ``[n, position, …]`` behind those that both runs share."""
    return value[:, session.prefix.length :]


def patch_family(
    session: Session, pair: Contrast, layers: Sequence[NodeHooks], *, groups: Tensor, entries: bool, once: bool
) -> Tensor:
    """Exact effects ``[n, layer, group, (unit)]`` of a family's nodes, which are patched at all positions of one group
    at once: ``groups [n, position]`` numbers them."""
    here, count = live(session, groups), int(groups.max()) + 1
    by_layer = []
    for layer, hooks in enumerate(counted(layers, "patch exactly", unit="layers")):
        delta = live(session, pair.difference(hooks))
        group_of = here.to(delta.device)
        moved = delta != 0 if entries else (delta != 0).any(-1)
        differs = sum_by_role(moved.long(), group_of, count).any(0)

        def change(cell: tuple[int, ...], delta: Tensor = delta, group_of: Tensor = group_of) -> Tensor:
            index: tuple[Any, ...] = (slice(None), slice(None), *cell[1:])
            own = delta[index]
            only = torch.zeros_like(delta)
            only[index] = own.where((group_of == cell[0]).reshape(*group_of.shape, *[1] * (own.ndim - 2)), 0)
            return only

        cells = [tuple(cell) for cell in differs.nonzero().tolist()]
        effects = torch.zeros(len(delta), *differs.shape, dtype=torch.float64)
        effects[:, differs.cpu()] = patch_cells(
            session, pair, at=hooks.change, layer=None if once else layer, cells=cells, change=change
        ).T
        by_layer.append(effects)
    return torch.stack(by_layer, 1)
