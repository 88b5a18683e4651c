"""Thresholds at the end of a run: what makes rows as sparse as training was to make them.

Of BatchTopK: in training the k · rows largest latents of a batch are kept; alone, a row keeps those above a threshold.
The running mean of the smallest value kept is of weights that have changed since: after a short run it is far too high
(after 200 steps at k 8, 4.8 latents a row in place of 8). With the final weights a few batches of the training data
tell it.

Of JumpReLU, Gated and ReLU with a number of latents asked for (``TrainConfig.l0``): what the controller of their loss
has missed, as in a short run, is made up for by one shift of a part's thresholds, or of its biases b_enc. Thresholds,
and the biases of gates, are not in the value of a latent that stays active. ReLU's are, which costs nothing beyond what
the other number of latents does: L1 leaves too few, and too small (``docs/sae-quality.md``).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from saes.activations import BatchTopK, Gated, JumpReLU, ReLU
from saes.places.dictionary import Dictionary, parts_of
from saes.sae import SAE
from saes.selection import kth_largest
from saes.training.config import TrainConfig
from saes.training.sources import Source, as_read, batches
from saes.training.stepping.state import TrainState

ROWS = 65_536
"""Most activations read."""
SHARE = 1 / 20
"""Of the run's tokens, where that is fewer."""
LEAST_BATCHES = 4


@torch.no_grad()
def calibrate(
    sae: SAE | Dictionary,
    inputs: Iterable[Sequence[Float[Tensor, "n _"]]],
    l0: float | None = None,
    *,
    together: bool = False,
) -> None:
    """Set every part's threshold to the mean, over batches of what it reads in training, of the smallest score that
    training would keep now; of JumpReLU, Gated and ReLU shift what keeps latents silent so that ``l0`` are active in
    every part, or on average over parts that are taken ``together``, if it is given. Nothing where the activation has
    no such weight, or no latent is above zero."""
    if isinstance(sae.activation, JumpReLU | Gated | ReLU) and l0 is not None:
        _shift(sae, inputs, l0, together=together)
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


def _shift(
    sae: SAE | Dictionary, inputs: Iterable[Sequence[Float[Tensor, "n _"]]], l0: float, *, together: bool
) -> None:
    parts = parts_of(sae)
    shifts = []
    for xs in inputs:
        reads = [sae.part_input(places, xs) for _, places in sae.placed()] if isinstance(sae, Dictionary) else xs
        scores = [_above(part, x) for part, x in zip(parts, reads, strict=True)]
        shared = [torch.cat(scores, dim=-1)] if together and len(parts) > 1 else scores
        shifts.append(torch.stack([_reached_by(its, l0, sae) for its in shared]))
    mean = torch.stack(shifts).mean(0)
    for part, shift in zip(parts, mean.expand(len(parts)), strict=True):
        if isinstance(part.activation, JumpReLU):
            part.threshold.add_(shift).clamp_(min=0)
        else:
            part.b_enc.sub_(shift)


def _above(part: SAE, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
    """How far every latent is above what keeps it silent. Minus infinity where it would be silent without that too,
    which does not compete: JumpReLU's pre-activation, or Gated's magnitude, below zero."""
    pre = part.pre_activations(x)
    if isinstance(part.activation, JumpReLU):
        return (pre - part.threshold).where(pre > 0, -torch.inf)
    if isinstance(part.activation, Gated):
        return pre.where((pre - part.b_enc) * part.r_mag.exp() + part.b_mag > 0, -torch.inf)
    return pre


def _reached_by(scores: Float[Tensor, "n latents"], l0: float, sae: SAE | Dictionary) -> Float[Tensor, ""]:
    """The score that ``l0`` latents a part and row reach; where fewer can be active, all that can."""
    group, latents = sae.group, sae.d_sae * sae.group.latent_shards
    parts = scores.shape[-1] // sae.d_sae
    rows = group.count(scores.numel()) // (latents * parts)
    reached = kth_largest(scores, max(1, round(l0 * parts * rows)), group)
    if reached.isfinite():
        return reached
    lowest = group.smallest(scores[scores.isfinite()])
    return lowest.where(lowest.isfinite(), 0)


def batch_count(tokens: int, batch_size: int) -> int:
    """How many batches of a run of so many tokens are looked at."""
    return max(LEAST_BATCHES, round(min(ROWS, SHARE * tokens) / batch_size))


def first_inputs(state: TrainState, config: TrainConfig, store: Source) -> Iterator[list[Float[Tensor, "own _"]]]:
    """What the run's first batches show at the places read; they come only if they are asked for."""
    reads = config.places[0]
    for batch in islice(batches(store, config, reads, 0), batch_count(config.tokens, config.batch_size)):
        yield as_read(state, [batch[place] for place in reads], config)
