"""Which tokens a latent raises and lowers by what it writes to the residual stream."""

from collections.abc import Iterable

import numpy as np
import torch

from circuits.graphs.graph import LATENT, AttributionGraph
from interp.sites.norms import linear_norm

Pairs = list[tuple[str, float]]
"""Texts of tokens, each with how much its logit moves for a unit of activation."""


@torch.no_grad()
def token_effects(
    graph: AttributionGraph, numbers: Iterable[int] | np.ndarray, *, k: int = 5
) -> dict[int, tuple[Pairs, Pairs]]:
    """Of latents the ``k`` tokens that they raise and lower most by writing to the residual stream.

    All layers that they write to count together, through the final norm without its division. Nothing where the graph
    has no model at hand.
    """
    source = graph.source
    if source is None:
        return {}
    n, root = graph.nodes, source.anatomy.root
    norm = None if source.anatomy.final_norm is None else linear_norm(source.anatomy.final_norm)
    head = root.get_output_embeddings().weight.detach()
    tokenizer = getattr(source.model, "tokenizer", None)
    found = {}
    for number in (int(number) for number in numbers if n.kind[number] == LATENT):
        one = next(one for one in source.transcoders if one.layer == n.layer[number])
        index = torch.tensor([int(n.index[number])], device=head.device)
        written = sum(one.decoder(index, i) for i in range(len(one.writes)))
        through = written if norm is None else norm.linear(written, written.new_ones(1))
        logits = (through.to(head.dtype) @ head.T)[0]
        ranked = (logits.topk(min(k, len(logits)), largest=largest) for largest in (True, False))
        raised, lowered = (
            [
                (str(i) if tokenizer is None else tokenizer.decode([i]), float(value))
                for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            for best in ranked
        )
        found[number] = (raised, lowered)
    return found
