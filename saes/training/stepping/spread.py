"""A training state on several processes: each gets its part from the leader, and a whole SAE is put together again."""

from itertools import chain, islice

import torch

from saes.distributed.group import ALONE, Group
from saes.places.dictionary import Dictionary, parts_of
from saes.sae import SAE
from saes.training.stepping.state import TrainState


@torch.no_grad()
def spread(state: TrainState, group: Group) -> None:
    """Give every process its part of what the leader holds: step, counters, weights, moments.

    All processes bring a state of the whole SAE, as before the first step; only the leader's numbers count.
    """
    sae, moments = state.sae, state.optimizer.state
    several = (state.scales, state.target_scales, state.sparsity)
    numbers = (state.step, state.finished, *chain.from_iterable(several))
    agreed = iter(group.agree(list(map(float, numbers))))
    state.step, state.finished = int(next(agreed)), bool(next(agreed))
    state.scales, state.target_scales, state.sparsity = (tuple(islice(agreed, len(its))) for its in several)
    state.silent = group.part("silent", state.silent)
    for name, parameter in sae.named_parameters():
        if parameter in moments and not state.finished:  # the leader has loaded what is finished, without moments
            moments[parameter] = {key: group.part(name, moment) for key, moment in moments[parameter].items()}
        parameter.data = group.part(name, parameter.data)
    for part in parts_of(sae):
        part.d_sae //= group.latent_shards
        part.group = group


@torch.no_grad()
def collect(sae: SAE | Dictionary) -> None:
    """Make a whole SAE of the parts, on every process."""
    for name, parameter in sae.named_parameters():
        parameter.data = sae.group.whole(name, parameter.data)
    for part in parts_of(sae):
        part.d_sae *= part.group.latent_shards
        part.group = ALONE
