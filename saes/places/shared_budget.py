"""BatchTopK with one budget for all parts of a dictionary: k · parts · rows latents, wherever they are largest."""

from collections.abc import Sequence

import torch

from saes.activations import BatchTopK
from saes.kernels.encode import PreActivations
from saes.latents import Latents, slots_above
from saes.places.part import Part
from saes.selection import kth_largest


def select_together(parts: Sequence[Part], pre: Sequence[PreActivations]) -> tuple[Latents, ...]:
    """Latents of every part, in training: those whose scores are among the k · parts · rows largest above zero.

    Dense pre-activations exist of one part at a time: of each, only what could win against all others is kept.
    """
    group, found, wanted = parts[0].group, [], 0
    for part, its in zip(parts, pre, strict=True):
        activation = part.activation
        assert isinstance(activation, BatchTopK)
        scores = activation.scores(part, its)
        total = group.count(scores.numel())
        wanted = activation.k * len(parts) * (total // (part.d_sae * group.latent_shards))
        least = kth_largest(scores, min(wanted, total), group).clamp_min(torch.finfo(scores.dtype).tiny)
        slots = slots_above(scores, least)
        found.append((slots, scores.gather(-1, slots.indices), its.dense.gather(-1, slots.indices)))
        del its.dense
    candidates = torch.cat([scores[slots.taken] for slots, scores, _ in found])
    enough = group.count(len(candidates)) > wanted
    bound = kth_largest(candidates, wanted, group) if enough else candidates.new_zeros(())
    latents = []
    for part, its, (slots, scores, values) in zip(parts, pre, found, strict=True):
        kept, its_values = slots.only(scores >= bound, values)
        chosen = its.differentiable(its_values, kept.indices).masked_fill(~kept.taken, 0)
        latents.append(Latents(chosen, kept.indices, part.d_sae))
    return tuple(latents)
