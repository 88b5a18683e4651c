"""One update of the weights, from a batch to the figures that are logged."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes import losses
from saes.latents import Latents
from saes.losses import SPARSITY, Pass
from saes.places import losses as places_losses
from saes.places.dictionary import Dictionary, parts_of
from saes.places.losses import Forward
from saes.sae import SAE
from saes.training.config import TrainConfig
from saes.training.optimiser.memory import keep_freed_memory
from saes.training.optimiser.together import set_learning_rate
from saes.training.sources import as_read
from saes.training.stepping.logged import controlled_weights, figures_of
from saes.training.stepping.loss import loss_terms
from saes.training.stepping.sparsity import controlled, rising
from saes.training.stepping.state import TrainState
from saes.training.stepping.weights import update

DIVERGED = 1000
"""How many times the norm of the activations that of the reconstruction may be."""


def train_step(
    state: TrainState,
    batch: Float[Tensor, "n d_in"] | Sequence[Float[Tensor, "n _"]],
    config: TrainConfig,
    *,
    target: Float[Tensor, "n d_out"] | Sequence[Float[Tensor, "n _"]] | None = None,
) -> None:
    """One update of the weights; fills ``state.metrics`` on the steps that are logged, else empties them.

    ``batch`` is what is read, of a dictionary over places at each of them; ``target`` what is to be written, where that
    is not the same.

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> from saes.training import initial_state, train_step
        >>> model, site = interp.load_model("embedded"), "blocks.2.hook_resid_post"
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> store = interp.cache_activations(model, rows, site, "acts")
        >>> size = {"k": 8, "d_sae": 128, "tokens": 1_024, "batch_size": 512}
        >>> config = saes.TrainConfig(site=site, out=Path("sae"), log_every=1, **size)
        >>> state = initial_state(config, store)
        >>> (batch,) = next(store.batches_of([interp.Site.parse(site)], 512)).values()
        >>> train_step(state, batch, config)
        >>> state.step, state.metrics["l0"]
        (1, 8.0)
    """
    keep_freed_memory()
    sae, group = state.sae, state.sae.group
    device = state.silent.device
    read = [batch] if isinstance(batch, Tensor) else list(batch)
    n = len(read[0])
    xs = as_read(state, read, config)
    written = [target] if isinstance(target, Tensor) else target
    targets = xs
    if written is not None:
        targets = [group.rows(t).to(device) * s for t, s in zip(written, state.target_scales, strict=True)]
    peak = config.peak_lr(parts_of(sae)[0].d_in)
    set_learning_rate(
        state.optimizer, state.step, peak=peak, steps=config.steps, warmup=config.warmup, decay=config.decay
    )
    dead = state.silent >= config.dead_after
    weights = config.weights(sae.activation)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        forward, latents, x_hats = _forward(sae, xs, targets, dead)
        sparsity = _sparsity(state, latents, weights, config)
        terms = loss_terms(forward, weights, sparsity=sparsity)
    powers = [_power(values) for values in (targets, x_hats)]
    shares = group.shares(torch.stack([*terms.values(), *powers]), len(xs[0]), n)
    values, (power, power_hat) = group.total(shares.detach()).tensor_split([-2])
    found = dict(zip(terms, values, strict=True))
    stopped = partial(_stopped, state=state, config=config, terms=found, read=read)
    if not torch.isfinite(values.sum()):
        raise stopped("the loss is not finite")
    if power_hat > DIVERGED**2 * power.clamp_min(1):
        raise stopped(f"training diverged: the reconstruction has {DIVERGED:,} times the norm of the activations")
    loss = shares[:-2].sum()
    gradient = update(state, loss, latents, tokens=n, decoder=config.decoder, clip=config.clip, stopped=stopped)
    with torch.no_grad():
        logged = state.step % config.log_every == 0 or state.step == config.steps
        state.metrics = figures_of(forward, latents, targets, x_hats, found, gradient, state) if logged else {}
        if logged and config.l0 is not None:
            state.metrics |= controlled_weights(weights, sparsity)


def _forward(
    sae: SAE | Dictionary, xs: list[Tensor], targets: Sequence[Tensor], dead: Bool[Tensor, "*parts d_sae"]
) -> tuple[Pass | Forward, Sequence[Latents], Sequence[Tensor]]:
    """The forward pass, with the latents of every part and what is written to every place."""
    if isinstance(sae, SAE):
        one = losses.run(sae, xs[0], targets[0], dead)
        return one, (one.latents,), (one.x_hat,)
    several = places_losses.run(sae, xs, targets, dead)
    return several, several.latents, several.x_hats


def _sparsity(
    state: TrainState, latents: Sequence[Latents], weights: Mapping[str, float], config: TrainConfig
) -> dict[str, list[float]]:
    """What every part's weight of each sparsity term is multiplied with in this step: it grows over the warm-up, or
    brings L0 to what was asked for."""
    if config.l0 is None:
        return rising(state.step, over=config.sparsity_warmup * config.steps, parts=len(latents))
    terms, together = [term for term in weights if term in SPARSITY], config.budget == "all"
    return controlled(state, latents, config.l0, terms=terms, steps=config.steps, together=together)


def _stopped(
    reason: str, *, state: TrainState, config: TrainConfig, terms: Mapping[str, Tensor], read: Sequence[Tensor]
) -> FloatingPointError:
    """The error of a step that is not taken, with what was seen and what helps."""
    shown = ", ".join(f"{name} {float(value):g}" for name, value in terms.items())
    start, n = state.step * config.batch_size, len(read[0])
    bad = (~torch.stack([rows.isfinite().all(-1) for rows in read]).all(0)).nonzero().flatten().tolist()
    which = f" ({len(bad)} of them not finite, the first is number {start + bad[0]})" if bad else ""
    kept = state.step >= config.checkpoint_every
    good = f"the last checkpoint in {config.out / 'checkpoints'} is good: " if kept else ""
    peak = config.peak_lr(parts_of(state.sae)[0].d_in)
    return FloatingPointError(
        f"{reason} at step {state.step} ({shown}), on activations {start} to {start + n} of the run{which};"
        f" {good}lower lr ({peak:g}), or check the store"
    )


def _power(values: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean square of an entry, over all places."""
    squares = [value.detach().square().mean() for value in values]
    return squares[0] if len(squares) == 1 else torch.stack(squares).mean()
