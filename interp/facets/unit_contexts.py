"""Where a unit of a model is active, strongly and weakly, and the residual stream before its layer there."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.plain import require_tested_family
from interp.models.source import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site, check_site
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr

STRONGEST, SPREAD = 100, 100
PER_ROW = 2


@dataclass(frozen=True, kw_only=True)
class UnitContexts:
    """Tokens at which a unit is active.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=2_000)
        >>> found = interp.facets.contexts_of(model, rows.tensor_of("ids")[:, :64], "blocks.2.mlp.hook_post", 2)
        >>> len(found.sequence) == len(found.vectors)
        True
    """

    sequence: Int[Tensor, " n"]
    """Row of the text that each token stands in."""
    position: Int[Tensor, " n"]
    """Position of each token in its row."""
    activation: Float[Tensor, " n"]
    """The unit's activation on each token."""
    vectors: Float[Tensor, "n d_model"]
    """The residual stream before the unit's block."""

    __repr__ = short_repr


@torch.no_grad()
def contexts_of(
    model: Any,
    tokens: Int[Tensor, "sequences position"],
    site: str | Site,
    index: int,
    *,
    strongest: int = STRONGEST,
    spread: int = SPREAD,
    per_row: int = PER_ROW,
    batch: int = 4,
    seed: int = 0,
) -> UnitContexts:
    """The strongest activations above 0 of one unit, and as many drawn evenly over deciles of the others.

    The strongest alone would hide a reason that only makes the unit fire weakly. The first token of a row, which is
    often an attention sink with massive activations, is left out.

    Args:
        model: from ``load_model``.
        tokens: rows of one length without padding.
        site: of the unit, of one vector a position, such as ``blocks.2.mlp.hook_post``.
        index: of the unit there.
        strongest: contexts with the largest activations.
        spread: contexts from the rest, a tenth from each decile.
        per_row: contexts at most from one row, so that one document does not decide.
        batch: sequences a forward pass.
        seed: of the draw.

    Raises:
        ValueError: a site without a block or with heads; an index that is not there; a unit that is never above 0.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", out="rows", tokens=2_000)
        >>> found = interp.facets.contexts_of(model, rows.tensor_of("ids")[:, :64], "blocks.2.mlp.hook_post", 2)
        >>> bool(found.activation[0] == found.activation.max())
        True
    """
    require_raw_weights(model, purpose="read a unit's contexts")
    require_tested_family(model, "contexts of units")
    place = Site.parse(site)
    check_site(model, place)
    if place.layer is None or place.kind in ("q", "k", "v", "z", "scores", "pattern") or place.kind.endswith("_scale"):
        raise ValueError(
            f"{place} holds no units of one vector a position: take a residual stream, an MLP's hook_post …"
        )
    before = Site("resid_pre", place.layer)
    values, streams = [], []
    for rows in counted(tokens.split(batch), "read contexts", unit="batches"):
        cache = capture(model, rows, {place, before})
        if not 0 <= index < cache[place].shape[-1]:
            raise ValueError(f"index={index}; {place} has units 0 to {cache[place].shape[-1] - 1}")
        values.append(cache[place][..., index].float().cpu())
        streams.append(cache[before].float().cpu())
    activation = torch.cat(values)
    activation[:, 0] = 0
    if not (activation > 0).any():
        raise ValueError(f"unit {index} of {place} is never above 0 in {len(tokens)} rows: give more text")
    rows = torch.arange(len(activation)).repeat_interleave(activation.shape[1])
    where = strong_and_spread(
        activation.flatten(), rows, strongest=strongest, spread=spread, per_row=per_row, seed=seed
    )
    return UnitContexts(
        sequence=where // activation.shape[1],
        position=where % activation.shape[1],
        activation=activation.flatten()[where],
        vectors=torch.cat(streams).flatten(0, 1)[where],
    )


def strong_and_spread(
    activation: Float[Tensor, " n"],
    rows: Int[Tensor, " n"],
    *,
    strongest: int = STRONGEST,
    spread: int = SPREAD,
    per_row: int = PER_ROW,
    seed: int = 0,
) -> Int[Tensor, " chosen"]:
    """Which tokens ``contexts_of`` takes, of those with an activation above 0, by number; ``rows`` they stand in.

    Of equal activations the earlier token comes first.
    """
    order = activation.argsort(descending=True, stable=True)
    order = order[activation[order] > 0]
    counts: dict[int, int] = {}
    kept = []
    for each, row in zip(order.tolist(), rows[order].tolist(), strict=True):
        counts[row] = counts.get(row, 0) + 1
        if counts[row] <= per_row:
            kept.append(each)
    generator = torch.Generator().manual_seed(seed)
    chosen = kept[:strongest]
    for decile in torch.tensor(kept[strongest:], dtype=torch.long).tensor_split(10):
        chosen += decile[torch.randperm(len(decile), generator=generator)[: spread // 10]].tolist()
    return torch.tensor(chosen, dtype=torch.long)
