"""Train SAEs from activations, to be read top to bottom.

Nothing random happens after the initialisation, and the source gives the same batch for the same step, so a run that
was killed at any step ends, when started again, with the same bits. Several SAEs share one pass over the data; each
takes the steps that it would take alone.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Tensor

from interp import processes
from interp.inference_mode import refuse_inference_mode
from interp.sites.site import Site
from interp.store.activation_store import ActivationStore
from saes import losses
from saes.distributed.launch import Group, arrange, one_for_all
from saes.latents import Latents
from saes.layer_norm import RowScale
from saes.losses import SPARSITY, TERMS, Pass
from saes.sae import SAE
from saes.same_model import check_same_model, said_model
from saes.training.adam import adam_step, make_moments, remove_parallel
from saes.training.checkpoints import TrainState, appended_log, claim, is_finished, resume, save_checkpoint, sync_log
from saes.training.config import TrainConfig, check
from saes.training.memory import keep_freed_memory
from saes.training.sinks import OpenSinks
from saes.training.site_statistics import SiteStatistics
from saes.training.spread import collect, spread
from saes.training.stopping import held_back

logger = logging.getLogger(__name__)

DIVERGED = 1000
"""How many times the norm of the activations that of the reconstruction may be."""
ADAM_EPS = 1e-18
"""Only against 0 / 0: about the smallest number whose square float32 still holds. The loss is a mean over rows and
dimensions, so that the root of the second moment of a latent that is rarely active can be 1e-8 and less: with
PyTorch's eps, of that size, it would take a fraction of Adam's step."""
STATISTICS_ROWS = 65_536
"""Rows read before the first step, for the data's mean and norm."""


@runtime_checkable
class Source(Protocol):
    """What training needs of ``interp.ActivationStore`` or live activations."""

    def __len__(self) -> int: ...
    def batches_of(
        self, sites: Sequence[Site], batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[dict[Site, Tensor]]:
        """One epoch of float32 [batch, d], from batch number ``start`` on; row i of every site is of the same token."""
        ...


def train(config: TrainConfig, store: Source, *, progress: bool = False) -> SAE:
    """Train, or continue the run in ``config.out``, or return its finished SAE.

    Raises ValueError for impossible settings and for a folder that holds another run; FloatingPointError where a loss
    stops being finite (the last good checkpoint stays).
    """
    return train_many([config], store, progress=progress)[0]


@one_for_all()
@torch.enable_grad()
def train_many(configs: Sequence[TrainConfig], store: Source, *, progress: bool = False) -> list[SAE]:
    """Train several SAEs in one pass over the data: other sites, variants, sizes, seeds.

    The result is that of training each alone, bit for bit. Under torchrun every process calls this, with the same
    arguments, and gets the SAEs. Raises as ``train``, and ValueError where they do not share the data's order, batch
    size and number of tokens, or share a folder.
    """
    refuse_inference_mode("training an SAE")
    _check_together(configs, store)
    groups = [arrange(latent_shards=config.latent_shards, d_sae=config.d_sae) for config in configs]
    leads = groups[0].leads
    with ExitStack() as claims:
        for config in configs if leads else ():
            claims.enter_context(claim(config.out, {"train": config.to_json(), "source": source_of(store)}))
        known: dict[tuple[str, bool], SiteStatistics] = {}
        states = [initial_state(config, store, known) for config in configs]
        for statistics in known.values() if leads else ():
            logger.log(logging.WARNING if statistics.massive else logging.INFO, "%s", statistics)
        for state, config in zip(states, configs, strict=True):
            if leads:
                _continue(state, config)
        processes.current().wait_for_all()  # bad news does not reach a process that comes late to a sum
        for state, group in zip(states, groups, strict=True):
            spread(state, group)
        unfinished = [(s, c) for s, c in zip(states, configs, strict=True) if not s.finished]
        if unfinished:
            _loop(unfinished, store, progress=progress)
        for state in states:
            collect(state.sae)
        for state, config in unfinished:
            state.sae.fold_scales(state.scale, state.target_scale)
            state.sae.layer_norm = config.normalise == "layer_norm"
            if leads:
                sync_log(config.out)
                state.sae.eval().save(config.out)
    return [state.sae.eval() for state in states]


def _continue(state: TrainState, config: TrainConfig) -> None:
    """Take up what the run folder holds: the finished SAE, or the newest checkpoint."""
    if is_finished(config.out):
        state.sae, state.step, state.finished = SAE.load(config.out), config.steps, True
    else:
        resume(state, config.out)


def _loop(runs: list[tuple[TrainState, TrainConfig]], store: Source, *, progress: bool) -> None:
    first, leads = runs[0][1], runs[0][0].sae.group.leads
    began, done = time.monotonic(), min(state.step for state, _ in runs)
    sites = sorted({site for _, c in runs for site in (c.site, c.target_site) if site is not None})
    with ExitStack() as stack:
        bar = stack.enter_context(
            Progress(*Progress.get_default_columns(), "{task.fields[figures]}", disable=not (progress and leads))
        )
        names = ", ".join(config.activation for _, config in runs)
        task = bar.add_task(f"train {names}", total=first.steps, completed=done, figures="")
        logs = [stack.enter_context(appended_log(c.out)) if leads else _write_nothing for _, c in runs]
        told = [stack.enter_context(OpenSinks(c.log_to if leads else (), c.out, c.to_json())) for _, c in runs]
        stopped = stack.enter_context(held_back()) if processes.current().size == 1 else _never
        for step, batch in enumerate(_batches(store, first, sites, done), done):
            for (state, config), log, sinks in zip(runs, logs, told, strict=True):
                if state.step != step:  # this one had come further when the run was killed
                    continue
                train_step(state, batch[config.site], config, target=batch.get(config.target_site or ""))
                if state.metrics:
                    rate = (step + 1 - done) * config.batch_size / (time.monotonic() - began)
                    figures = {**state.metrics, "tokens_per_second": rate}
                    log({"step": state.step, **figures})
                    sinks.write(state.step, figures)
                    bar.update(task, completed=state.step, figures=_figures(state, rate))
                if state.step % config.checkpoint_every == 0:
                    save_checkpoint(state, config.out)
            if stopped():
                for state, config in runs:
                    save_checkpoint(state, config.out)
                break


def _never() -> bool:
    """Several processes do not stop at the same step."""
    return False


def _write_nothing(_figures: dict[str, Any]) -> None:
    """The log of processes that do not lead."""


def _figures(state: TrainState, rate: float) -> str:
    m = state.metrics
    fvu = "none" if m["fvu"] is None else f"{m['fvu']:.3f}"
    return f"{rate:,.0f} tokens/s  FVU {fvu}  L0 {m['l0']:.1f}  dead {m['dead']:.0f}"


def train_step(
    state: TrainState,
    batch: Float[Tensor, "n d_in"],
    config: TrainConfig,
    *,
    target: Float[Tensor, "n d_out"] | None = None,
) -> None:
    """One update of the weights; fills ``state.metrics`` on the steps that are logged, else empties them."""
    keep_freed_memory()
    sae, group = state.sae, state.sae.group
    device = state.silent.device
    x = _without_row_scale(group.rows(batch).to(device), config) * state.scale
    target = x if target is None else group.rows(target).to(device) * state.target_scale
    set_learning_rate(state, peak=config.peak_lr, steps=config.steps, warmup=config.warmup, decay=config.decay)
    dead = state.silent >= (config.dead_after_steps or sae.activation.dead_after_steps)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        forward = losses.run(sae, x, target, dead)
        terms = loss_terms(forward, config, step=state.step)
    powers = [t.detach().square().mean() for t in (target, forward.x_hat)]
    shares = group.shares(torch.stack([*terms.values(), *powers]), len(x), len(batch))
    values, (power, power_hat) = group.total(shares.detach()).tensor_split([-2])

    def stopped(reason: str) -> FloatingPointError:
        shown = ", ".join(f"{name} {value:g}" for name, value in zip(terms, values.tolist(), strict=True))
        start = state.step * config.batch_size
        bad = (~batch.isfinite().all(-1)).nonzero().flatten().tolist()
        which = f" ({len(bad)} of them not finite, the first is number {start + bad[0]})" if bad else ""
        return FloatingPointError(
            f"{reason} at step {state.step} ({shown}), on activations {start} to {start + len(batch)} of the run"
            f"{which}; the"
            f" last checkpoint in {config.out / 'checkpoints'} is good: lower lr ({config.peak_lr:g}), or check the"
            " store"
        )

    if not torch.isfinite(values.sum()):
        raise stopped("the loss is not finite")
    if power_hat > DIVERGED**2 * power.clamp_min(1):
        raise stopped(f"training diverged: the reconstruction has {DIVERGED:,} times the norm of the activations")
    loss = shares[:-2].sum()
    gradient = update(state, loss, forward.latents, decoder=config.decoder, clip=config.clip, stopped=stopped)
    with torch.no_grad():
        logged = state.step % config.log_every == 0 or state.step == config.steps
        state.metrics = _metrics(forward, dict(zip(terms, values, strict=True)), gradient, state) if logged else {}


def update(
    state: TrainState,
    loss: Float[Tensor, ""],
    latents: Latents,
    *,
    decoder: str,
    clip: float,
    stopped: Callable[[str], FloatingPointError],
) -> Tensor:
    """One step down the gradient of ``loss``, and what follows every step; returns the gradient's norm before clipping.

    Args:
        loss: This process's share of it.
        latents: Of the forward pass: those that were active, and what the activation learns from them.
        decoder: See ``TrainConfig``.
        clip: Largest norm of the gradient.
        stopped: Makes the error to raise, from the reason, where the gradient is not finite; no weight has changed.
    """
    sae, group = state.sae, state.sae.group
    unit_rows = {"unit_norm": sae.W_dec, "tied": sae.W_enc}.get(decoder)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    group.sum_gradients(sae)
    if decoder == "tied":  # one matrix: its gradient is the sum, and W_dec follows after the step
        assert sae.W_enc.grad is not None
        assert sae.W_dec.grad is not None
        sae.W_enc.grad += sae.W_dec.grad.T
        sae.W_dec.grad = None
        remove_parallel(sae.W_enc.grad.T, sae.W_enc.T)
    elif decoder == "unit_norm":
        assert sae.W_dec.grad is not None
        remove_parallel(sae.W_dec.grad, sae.W_dec)
    gradient = group.gradient_norm(sae)
    if not torch.isfinite(gradient):
        raise stopped("the gradient is not finite")
    adam_step(state.optimizer, scale=(clip / gradient).clamp(max=1), unit_rows=unit_rows)
    with torch.no_grad():
        if decoder == "tied":
            sae.W_dec.copy_(sae.W_enc.T)
        sae.activation.after_step(sae, latents)
        active = torch.zeros_like(state.silent, dtype=torch.bool)
        active[latents.indices[latents.values != 0]] = True
        state.silent = torch.where(group.over_rows(active.int()) > 0, 0, state.silent + 1)
        state.step += 1
    return gradient


def loss_terms(forward: Pass, config: TrainConfig, *, step: int) -> dict[str, Float[Tensor, ""]]:
    """The weighted terms of the loss; those of sparsity grow over the warm-up."""
    rise = min(1.0, (step + 1) / max(1.0, config.sparsity_warmup * config.steps))
    terms = {}
    for name, weight in config.weights(forward.sae.activation).items():
        if name == "aux" and not forward.n_dead:
            continue
        terms[name] = (weight * rise if name in SPARSITY else weight) * TERMS[name](forward)
    return terms


def _metrics(forward: Pass, terms: dict[str, Tensor], gradient: Tensor, state: TrainState) -> dict[str, float | None]:
    group = forward.sae.group
    return {
        "loss": float(sum(terms.values())),
        **{name: term.item() for name, term in terms.items()},
        "fvu": _fvu(forward.target, forward.x_hat, group),
        "l0": float(group.mean(group.over_latents(forward.latents.l0.float()))),
        "dead": float(forward.n_dead),
        "gradient_norm": float(gradient),
        "lr": state.optimizer.param_groups[0]["lr"],
    }


def _fvu(target: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], group: Group) -> float | None:
    """Fraction of variance unexplained; None where the rows do not differ by more than the rounding of their mean."""
    power, error = (group.mean(t.square()).mean() for t in (target, target - x_hat))
    variance = group.mean((target - group.mean(target)).square()).mean()
    rounding = (8 * torch.finfo(target.dtype).eps) ** 2 * power
    return float(error / variance) if variance > rounding else None


def initial_state(
    config: TrainConfig, store: Source, known: dict[tuple[str, bool], SiteStatistics] | None = None
) -> TrainState:
    """Weights and optimizer before the first step; the data's mean and norm come from its first rows.

    What these say goes to ``known``, by site and whether rows are layer-normalised, and is not read twice.
    """
    known = {} if known is None else known
    source = target = _statistics(config.site, config, store, known)
    if config.target_site is not None:
        target = _statistics(config.target_site, config, store, known)
    d_in, d_out = len(source.mean), len(target.mean)
    normalised = config.normalise == "mean_norm"
    scale = math.sqrt(d_in) / source.norm if normalised else 1.0
    target_scale = math.sqrt(d_out) / target.norm if normalised else 1.0
    sae = SAE(
        d_in,
        config.d_sae,
        config.build_activation(),
        d_out=d_out,
        subtract_b_dec=config.target_site is None,
        skip=config.skip,
        site=config.site,
        target_site=config.target_site,
        provenance={"train": config.to_json(), "source": source_of(store)},
    )
    if config.init_from is None:
        sae.initialise(seed=config.seed, mean=target.mean * target_scale)
    else:
        layer_norm = config.normalise == "layer_norm"
        _start_from(sae, SAE.load(config.init_from), scale, target_scale, layer_norm=layer_norm)
    if config.decoder == "tied":
        with torch.no_grad():
            sae.W_enc.copy_(sae.W_dec.T)
    return fresh_state(sae.to(device_of(config)), scale, target_scale, decoder=config.decoder)


def fresh_state(sae: SAE, scale: float, target_scale: float, *, decoder: str) -> TrainState:
    """An SAE, on its device, with an optimizer that has taken no step."""
    learned = [
        parameter
        for parameter in sae.parameters()
        if parameter.requires_grad and not (decoder == "tied" and parameter is sae.W_dec)  # which follows W_enc
    ]
    optimizer = torch.optim.Adam(learned, lr=0.0, betas=(0.9, 0.999), eps=ADAM_EPS, fused=True)
    make_moments(optimizer)
    silent = torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.W_enc.device)
    return TrainState(sae.train(), optimizer, scale, target_scale, silent)


def device_of(config: TrainConfig) -> torch.device:
    """The one asked for, else this process's GPU, else the CPU."""
    name = config.device or processes.default_device() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, which is not to be had here ({first}); leave it out") from error


def _start_from(sae: SAE, other: SAE, scale: float, target_scale: float, *, layer_norm: bool) -> None:
    """Weights of a finished SAE, brought back to the scale that training runs in."""
    mine, found = ({name: tuple(p.shape) for name, p in s.named_parameters()} for s in (sae, other))
    if mine != found or sae.subtract_b_dec != other.subtract_b_dec:
        raise ValueError(f"the SAE to start from has weights {found}, this one needs {mine}")
    if other.layer_norm != layer_norm:
        raise ValueError(
            f"the SAE to start from {'is' if other.layer_norm else 'is not'} of layer-normalised activations: pass"
            f" normalise={'layer_norm' if other.layer_norm else 'mean_norm'!r}"
        )
    check_same_model(other, said_model(sae), name="the SAE to start from")
    other.fold_scales(1 / scale, 1 / target_scale)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(other.get_parameter(name))


def _statistics(
    site: str, config: TrainConfig, store: Source, known: dict[tuple[str, bool], SiteStatistics]
) -> SiteStatistics:
    """Of the first rows that training will see; SAEs that are trained together see the same."""
    key = (site, config.normalise == "layer_norm")
    if key not in known:
        rows, wanted, place = [], min(STATISTICS_ROWS, len(store)), Site.parse(site)
        for batch in store.batches_of([place], min(config.batch_size, wanted), seed=config.data_seed):
            rows.append(batch[place])
            if sum(map(len, rows)) >= wanted:
                break
        raw = torch.cat(rows)
        data = _without_row_scale(raw, config)
        _check_finite(raw, data, site, config, store)
        known[key] = SiteStatistics.of(data, site=site)
    return known[key]


def _check_finite(
    raw: Float[Tensor, "n d"], data: Float[Tensor, "n d"], site: str, config: TrainConfig, store: Source
) -> None:
    if (whole := data.norm(dim=-1).isfinite()).all():
        return
    bad = (~whole).nonzero().flatten().tolist()
    reason = "too large for float32" if raw[bad[0]].isfinite().all() else "not finite"
    raise ValueError(
        f"{len(bad)} of the first {len(raw)} activations at {site} are {reason}; the first is number {bad[0]} of the"
        f" run{_token_of(store, config, bad[0])}. Cache in float32 or bfloat16, or leave such tokens out"
    )


def _token_of(store: Source, config: TrainConfig, number: int) -> str:
    """Which token of the text stands at a place of the run's first epoch, in words; nothing where that is not known."""
    if not isinstance(store, ActivationStore):
        return ""
    batch, place = divmod(number, config.batch_size)
    token = int(next(store.indices(config.batch_size, config.data_seed, batch))[place])
    found = store.tokens(slice(token, token + 1))
    return f": token {token} of the store, position {int(found.positions)} of document {int(found.documents)}"


def _without_row_scale(x: Float[Tensor, "n d"], config: TrainConfig) -> Float[Tensor, "n d"]:
    """The SAE itself does this once it is trained; the loss is of what it is shown here."""
    return RowScale.of(x).remove(x) if config.normalise == "layer_norm" else x


def source_of(store: Source) -> dict[str, Any]:
    """Where the activations come from, as far as the store says: fingerprints of model and data."""
    return dict(getattr(store, "provenance", {}))


def _check_together(configs: Sequence[TrainConfig], store: Source) -> None:
    if len(store) == 0:
        raise ValueError("the store is empty; cache some tokens first")
    for config in configs:
        check(config)
    for name in ("tokens", "batch_size", "data_seed"):
        if len(values := {getattr(config, name) for config in configs}) > 1:
            raise ValueError(f"SAEs trained in one pass share {name}; got {sorted(values)}")
    folders: list[Path] = [config.out.resolve() for config in configs]
    if len(set(folders)) < len(folders):
        raise ValueError(f"every SAE needs a folder of its own; got {', '.join(map(str, folders))}")


def _batches(
    store: Source, config: TrainConfig, sites: Sequence[str], done: int
) -> Iterator[dict[str, Float[Tensor, "n _"]]]:
    """The batches of steps ``done``, ``done`` + 1, …: epoch after epoch, each shuffled by its own seed."""
    per_epoch = math.ceil(len(store) / config.batch_size)
    places = {name: Site.parse(name) for name in sites}
    while done < config.steps:
        epoch, start = divmod(done, per_epoch)
        for batch in store.batches_of(list(places.values()), config.batch_size, config.data_seed + epoch, start):
            yield {name: batch[place] for name, place in places.items()}
            done += 1
            if done == config.steps:
                return


def set_learning_rate(state: TrainState, *, peak: float, steps: int, warmup: float, decay: float) -> None:
    """Linear warm-up, constant, linear decay: a function of the step alone, so that nothing has to be resumed."""
    rise = (state.step + 1) / max(1.0, warmup * steps)
    fall = (steps - state.step) / max(1.0, decay * steps)
    state.optimizer.param_groups[0]["lr"] = peak * min(1.0, rise, fall)
