"""From rows of tokens to activations, one row of numbers a token: what storing and live activations have in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from interp.models.bridge import Model
from interp.models.fingerprint import weights_fingerprint
from interp.models.loading import context_length, require_raw_weights, source_of
from interp.sites.capturing import capture
from interp.sites.site import Site
from interp.store.masks import Masks
from interp.tokens.token_rows import TokenRows, require_rows

TOKENS_A_BATCH = 4096
_PAIRWISE = ("pattern", "scores")


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Of the tokens that the masks keep, in the order of the text."""

    tokens: Int32[np.ndarray, " n"]
    """Id of each token, in the tokenizer's vocabulary."""
    documents: Int32[np.ndarray, " n"]
    """Number of the document that each token is of."""
    positions: Int32[np.ndarray, " n"]
    """Position of each token in its row."""
    at: Mapping[Site, Float[Tensor, "n d"]]
    """On the model's device, in its dtype, and finite; of a site with several dimensions a token, flattened."""


def default_batch_rows(rows: TokenRows) -> int:
    """Rows to run through a model at once.

    Raises ValueError for what is no rows, such as a path.
    """
    require_rows(rows)
    return max(1, TOKENS_A_BATCH // rows.ids.shape[1])


def check_input(model: Model, rows: TokenRows) -> None:
    """Refuse a model whose activations are not those published, and rows that it cannot read."""
    require_raw_weights(model, purpose="cache activations")
    context, limit = rows.ids.shape[1], context_length(model)
    if context > limit:
        raise ValueError(f"rows have {context} tokens, and the model was built for at most {limit}: lower the context")
    largest = int(rows.ids.max())
    if largest >= model.cfg.d_vocab:
        raise ValueError(
            f"token id {largest} is outside the model's vocabulary of {model.cfg.d_vocab}: the rows were made with"
            " another tokenizer"
        )


def site_widths(model: Model, sites: Sequence[Site]) -> dict[Site, int]:
    """Numbers a token of each site, found by running two rows of two tokens.

    Raises:
        ValueError: a site does not have one vector a token.
    """
    for site in sites:
        if site.kind in _PAIRWISE:
            raise ValueError(f"{site} is a matrix over pairs of tokens, not a vector a token; use interp.capture")
    shape = (2, min(3, context_length(model)))
    found = capture(model, torch.zeros(shape, dtype=torch.long), sites, attention_mask=torch.ones(shape))
    for site in sites:
        if found[site].ndim < 3 or found[site].shape[:2] != shape:
            raise ValueError(
                f"{site} gives a tensor of shape {tuple(found[site].shape)} for tokens {shape}, not a vector a token;"
                " use interp.capture"
            )
    return {site: prod(found[site].shape[2:]) for site in sites}


def describe(model: Model, rows: TokenRows, widths: Mapping[Site, int], masks: Masks) -> dict[str, Any]:
    """Where activations come from, as flat JSON: what a store and everything trained on it records."""
    source = source_of(model)
    return {
        "model": source.name,
        "revision": source.revision,
        "weights": weights_fingerprint(model),
        "model_dtype": source.dtype,
        "device": next(model.parameters()).device.type,
        "data": rows.fingerprint,
        "rows": len(rows.ids),
        "context": rows.ids.shape[1],
        "packing": rows.info.get("packing"),
        "bos": rows.info.get("bos_asked"),
        "sites": {str(site): width for site, width in widths.items()},
        **asdict(masks),
    }


def stream(
    model: Model, rows: TokenRows, sites: Sequence[Site], which: np.ndarray, *, masks: Masks, batch_rows: int
) -> Iterator[Activations]:
    """Activations of the rows numbered ``which``, ``batch_rows`` at a time; the norm mask is the caller's to apply.

    Raises:
        ValueError: an activation is not finite; the message says at which site and token.
    """
    device = next(model.parameters()).device
    for begin in range(0, len(which), batch_rows):
        numbers = which[begin : begin + batch_rows]
        ids, keep = rows.ids[numbers], masks.of_rows(rows, numbers)
        chosen = None if keep.all() else torch.from_numpy(np.flatnonzero(keep)).to(device)

        def select(tensor: Tensor, chosen: Tensor | None = chosen) -> Tensor:
            flat = tensor.flatten(0, 1).flatten(1)
            return flat if chosen is None else flat[chosen]

        found = capture(model, ids, sites, attention_mask=rows.documents[numbers] >= 0, reduce=select)
        row, position = np.nonzero(keep)
        for site in sites:
            _check_finite(found[site], site, ids[keep], numbers[row], position)
        yield Activations(
            tokens=ids[keep],
            documents=rows.documents[numbers][keep],
            positions=rows.positions[numbers][keep],
            at={site: found[site] for site in sites},
        )


def _check_finite(x: Tensor, site: Site, ids: np.ndarray, row: np.ndarray, position: np.ndarray) -> None:
    finite = torch.isfinite(x)
    if finite.all():
        return
    bad = int((~finite).any(1).nonzero()[0])
    value = x[bad][~finite[bad]][0].item()
    layer = "" if site.layer is None else f" (layer {site.layer})"
    raise ValueError(
        f"{site}{layer} has an activation that is not finite ({value}) at row {row[bad]}, position {position[bad]},"
        f" token id {ids[bad]}. Run the model in float32 or bfloat16, or check its weights"
    )
