"""Thresholds at the end of a run: what makes rows as sparse as training was to make them.

Of BatchTopK: in training the k · rows largest latents of a batch are kept; alone, a row keeps those above a threshold.
The running mean of the smallest value kept is of weights that have changed since: after a short run it is far too high
(after 200 steps at k 8, 4.8 latents a row in place of 8). With the final weights a few batches of the training data
tell it.

Of JumpReLU with a number of latents asked for (``TrainConfig.l0``): what the controller of its loss has missed, as in a
short run at an L0 that it reaches from below, is made up for by one shift of all thresholds.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from saes.activations import BatchTopK, JumpReLU
from saes.places.dictionary import Dictionary, parts_of
from saes.sae import SAE
from saes.selection import kth_largest
from saes.training.checkpoints import TrainState
from saes.training.config import TrainConfig
from saes.training.sources import Source, as_read, batches

ROWS = 65_536
"""Most activations read."""
SHARE = 1 / 20
"""Of the run's tokens, where that is fewer."""
LEAST_BATCHES = 4


@torch.no_grad()
def calibrate(sae: SAE | Dictionary, inputs: Iterable[Sequence[Float[Tensor, "n _"]]], l0: float | None = None) -> None:
    """Set every part's threshold to the mean, over batches of what it reads in training, of the smallest score that
    training would keep now; of JumpReLU shift all thresholds so that ``l0`` latents a part are active, if it is given.
    Nothing where the activation has no such threshold, or no batch has a latent above zero."""
    if isinstance(sae.activation, JumpReLU) and l0 is not None:
        _shift_thresholds(sae, inputs, l0)
    if not isinstance(sae.activation, BatchTopK):
        return
    sae.train()
    smallest = [
        sae.smallest_kept(sae.encode(xs))
        if isinstance(sae, Dictionary)
        else sae.activation.smallest_kept(sae, sae.encode(xs[0]))[None]
        for xs in inputs
    ]
    for part, its in zip(parts_of(sae), torch.stack(smallest, dim=1), strict=True):
        if (known := its[its.isfinite()]).numel():
            part.threshold.fill_(known.mean())


def _shift_thresholds(sae: SAE | Dictionary, inputs: Iterable[Sequence[Float[Tensor, "n _"]]], l0: float) -> None:
    group, shifts, parts = sae.group, [], parts_of(sae)
    lowest = group.smallest(-torch.stack([part.threshold for part in parts]))  # all thresholds are 0 there
    for xs in inputs:
        reads = [sae.part_input(places, xs) for _, places in sae.placed()] if isinstance(sae, Dictionary) else xs
        pre = [part.pre_activations(x) for part, x in zip(parts, reads, strict=True)]
        # Below zero nothing is active, however low the threshold: what is there does not compete.
        above = [(p - part.threshold).where(p > 0, -torch.inf) for part, p in zip(parts, pre, strict=True)]
        scores = above[0] if len(above) == 1 else torch.cat(above, dim=-1)
        rows = group.count(scores.numel()) // (sae.d_sae * group.latent_shards * len(parts))
        shifts.append(kth_largest(scores, max(1, round(l0 * len(parts) * rows)), group).clamp_min(lowest))
    for part in parts:
        part.threshold.add_(torch.stack(shifts).mean()).clamp_(min=0)


def batch_count(tokens: int, batch_size: int) -> int:
    """How many batches of a run of so many tokens are looked at."""
    return max(LEAST_BATCHES, round(min(ROWS, SHARE * tokens) / batch_size))


def first_inputs(state: TrainState, config: TrainConfig, store: Source) -> Iterator[list[Float[Tensor, "own _"]]]:
    """What the run's first batches show at the places read; they come only if they are asked for."""
    reads = config.places[0]
    for batch in islice(batches(store, config, reads, 0), batch_count(config.tokens, config.batch_size)):
        yield as_read(state, [batch[place] for place in reads], config)
