"""Which of a store's tokens are decomposed, and their activations at one or more sites, block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.massive.massive_tokens import MASSIVE_TIMES
from interp.sites.site import Site
from interp.store.activation_store import ActivationStore

BLOCK_NUMBERS = 1 << 22
"""Of activations at once: 32 MiB of float64, of which a pass holds a few."""


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """Tokens of a store that are used; row ``i`` below is the ``i``-th of them."""

    store: ActivationStore
    """The store that they are in."""
    rows: Int[Tensor, " n"]
    """Their numbers in the store, ascending."""
    documents: Int[Tensor, " n"]
    """Number of the document that each token is of."""
    positions: Int[Tensor, " n"]
    """Position of each token in its row."""
    ids: Int[Tensor, " n"]
    """Id of each token, in the tokenizer's vocabulary."""
    norm_limit: float
    """Tokens with a larger norm were left out, here or when they were cached; infinite where none was."""
    warnings: tuple[str, ...]
    """What a reader of any figure made from them has to know."""

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(
        self, sites: Sequence[Site], chosen: Bool[Tensor, " n"] | None = None
    ) -> Iterator[tuple[Int[Tensor, " m"], dict[Site, Float[Tensor, "m _"]]]]:
        """Numbers of the rows where ``chosen`` holds (all by default) and their activations, in the store's order.

        Raises:
            ValueError: an activation is not finite; document and position are named.
        """
        which = torch.arange(len(self)) if chosen is None else chosen.nonzero()[:, 0]
        in_store = self.rows[which]
        size = block_tokens(self.store)
        edges = torch.arange(0, len(self.store) + size, size)
        for begin, (first, last) in zip(
            edges.tolist(), torch.searchsorted(in_store, edges).unfold(0, 2, 1).tolist(), strict=False
        ):
            if first == last:
                continue
            local = in_store[first:last] - begin
            window = slice(begin, begin + size)
            found = {site: self.store.read(site, window)[local] for site in sites}
            for site, x in found.items():
                self.check_finite(x, which[first:last], f"the activation at {site}")
            yield which[first:last], found

    def check_finite(self, values: Float[Tensor, "m _"], which: Int[Tensor, " m"], name: str) -> None:
        """Refuse values that are not finite, by document and position."""
        bad = ~torch.isfinite(values).all(-1)
        if bad.any():
            where = ", ".join(
                f"document {int(self.documents[i])} position {int(self.positions[i])}" for i in which[bad][:5]
            )
            raise ValueError(
                f"{name} is not finite for {int(bad.sum())} of {len(bad)} tokens: {where}. Cache in float32 or"
                " bfloat16, or check the weights"
            )


def block_tokens(store: ActivationStore) -> int:
    """Tokens of a block: the same for every site, so that passes over several keep in step."""
    return max(1, BLOCK_NUMBERS // max(map(store.width, store.sites)))


def keep_tokens(
    store: ActivationStore,
    site: Site,
    *,
    max_tokens: int | None = None,
    drop_first: int = 0,
    drop_norm_above: float | None = None,
    special_ids: Sequence[int] = (),
    drop_special: bool = False,
) -> KeptTokens:
    """The first ``max_tokens`` of a store, less those that are masked.

    Args:
        drop_first: Leave out that many positions of every row (the paper: 200).
        drop_norm_above: Leave out tokens whose activation at ``site`` has a norm above this many times the median.
        special_ids: BOS, separators and the like, where they are known.
        drop_special: Leave those out.

    Raises:
        ValueError: a mask that makes no sense, or that leaves nothing.
    """
    if drop_norm_above is not None and drop_norm_above < 1:
        raise ValueError(f"drop_norm_above is {drop_norm_above:g}; it must be 1 or more, such as 10")
    if drop_special and not special_ids:
        raise ValueError("which tokens are special is not known for this store (no tokens folder): use drop_first")
    columns = store.tokens(slice(max_tokens))
    size = block_tokens(store)
    norms = torch.cat(
        [
            store.read(site, slice(begin, min(begin + size, len(columns.tokens)))).norm(dim=-1)
            for begin in range(0, len(columns.tokens), size)
        ]
    )
    special = torch.isin(columns.tokens, torch.tensor(special_ids, dtype=columns.tokens.dtype))
    keep = columns.positions >= drop_first
    if drop_special:
        keep &= ~special
    if not keep.any():
        raise ValueError(f"drop_first {drop_first} leaves none of {len(keep)} tokens; drop fewer")
    median = norms[keep].nanmedian()
    limit = float("inf")
    if drop_norm_above is not None:
        limit = drop_norm_above * float(median)
        keep &= ~(norms > limit)
    massive = keep & (norms > MASSIVE_TIMES * median)
    warnings = []
    if massive.any():
        warnings.append(
            f"{int(massive.sum())} of {int(keep.sum())} tokens at {site} are massive (norm above {MASSIVE_TIMES:g}"
            " times the median): a few of them can decide every fit and every variance. Leave them out with"
            f" drop_norm_above={MASSIVE_TIMES:g}"
        )
    if (keep & special).any():
        warnings.append(
            f"{int((keep & special).sum())} of {int(keep.sum())} tokens are special (BOS, separators): leave them out"
            " with drop_special"
        )
    elif (keep & (columns.positions == 0)).any() and not special_ids and store.provenance.get("bos") != "never":
        warnings.append(
            "the store holds first positions, which may be BOS tokens: leave them out with drop_first=1 or more"
        )
    if (
        store.provenance.get("drop_norm_above") is not None
    ):  # by the median of each shard, so its own limit is not known
        limit = min(limit, float(norms[keep].max()))
    rows = keep.nonzero()[:, 0]
    return KeptTokens(
        store=store,
        rows=rows,
        documents=columns.documents[rows],
        positions=columns.positions[rows],
        ids=columns.tokens[rows],
        norm_limit=limit,
        warnings=tuple(warnings),
    )
