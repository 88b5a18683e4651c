"""Exact activation patching: one node at a time, many at once in the rows of a batch.

A cell whose activation is the same in both runs has no effect and is not run (in a causal model, all positions before
the first that differs). A patch in layer l leaves everything before l alone, so passes start there.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from circuits.nodes import Places, Spot
from circuits.running import Start
from circuits.session import Contrast, Session

# Rows of one pass are filled up to about this many tokens: enough to keep a processor busy, little beside the weights.
TOKENS_AT_ONCE = 2048


def patch_cells(
    session: Session,
    found: Contrast,
    *,
    at: Spot,
    layer: int | None,
    cells: Sequence[tuple[int, ...]],
    change: Callable[[tuple[int, ...]], Tensor],
    residual: Tensor | None,
) -> Tensor:
    """Effects ``[cell, n]`` on the scaled metric of adding ``change(cell)`` (``[n, position, (unit,) d]``) at a spot.

    ``residual`` is what enters ``layer`` in the base run; without a layer passes start at the embeddings.
    """
    tokens = session.task.base
    at_once = max(1, TOKENS_AT_ONCE // tokens.numel())
    effects = []
    for begin in range(0, len(cells), at_once):
        chunk = cells[begin : begin + at_once]
        start = None
        if layer is not None:
            assert residual is not None
            start = Start(layer, residual.detach().repeat(len(chunk), 1, 1))
        passed = session.runner.forward(
            tokens.repeat(len(chunk), 1), add={at: torch.cat([change(cell) for cell in chunk])}, start=start
        )
        metric = found.measure(passed.logits.unflatten(0, (len(chunk), -1)))
        effects.append((metric - found.base_metric.detach()).double())
    return torch.cat(effects) if effects else torch.zeros(0, len(tokens), dtype=torch.float64)


def patch_family(
    session: Session, found: Contrast, spots: Sequence[Places], *, by_position: bool, entries: bool, once: bool
) -> Tensor:
    """Exact effects ``[n, layer, position, (unit)]`` of a family's nodes; unless ``by_position``, a node is patched at
    all positions at once."""
    layers = []
    for layer, place in enumerate(spots):
        delta = found.difference(place)
        shape = delta.shape[1:] if entries else delta.shape[1:-1]
        shape = shape if by_position else shape[1:]
        effects = torch.zeros(math.prod(shape), len(delta), dtype=torch.float64)
        differs = (delta if entries else delta.any(-1)).any(0)
        differs = differs if by_position else differs.any(0)
        cells = [tuple(cell) for cell in differs.nonzero().tolist()]

        def change(cell: tuple[int, ...], delta: Tensor = delta) -> Tensor:
            only = torch.zeros_like(delta)
            index = (slice(None), *(() if by_position else (slice(None),)), *cell)
            only[index] = delta[index]
            return only

        residual = None if once else found.base.value(session.residual[layer].value)
        if cells:
            effects[differs.flatten()] = patch_cells(
                session,
                found,
                at=place.change,
                layer=None if once else layer,
                cells=cells,
                change=change,
                residual=residual,
            ).cpu()
        layers.append(effects.T.reshape(len(delta), *shape))
    return torch.stack(layers, 1)
