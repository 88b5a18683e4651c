"""Train SAEs from activations, to be read top to bottom.

Nothing random happens after the initialisation, and the source gives the same batch for the same step, so a run that
was killed at any step ends, when started again, with the same bits. Several SAEs share one pass over the data; each
takes the steps that it would take alone.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import processes
from interp.arguments.kinds import require
from interp.inference_mode import refuse_inference_mode
from interp.stopping import held_back
from interp.terminal.progress import progress as working
from saes import losses
from saes.activations import TopAFA
from saes.distributed.launch import arrange, one_for_all
from saes.latents import Latents
from saes.losses import SPARSITY, TERMS, Pass
from saes.places import losses as places_losses
from saes.places.dictionary import Dictionary, parts_of
from saes.places.files import load_any
from saes.places.losses import Forward
from saes.places.stores import HasSites
from saes.sae import SAE
from saes.training.checkpoints import TrainState, appended_log, claim, is_finished, resume, save_checkpoint, sync_log
from saes.training.config import TrainConfig, check
from saes.training.figures.sinks import OpenSinks
from saes.training.figures.site_statistics import SiteStatistics
from saes.training.finishing import finish, keep, save, tell_of_steps_gone_by
from saes.training.initial import device_of, initial_state
from saes.training.optimiser.adam import remove_parallel
from saes.training.optimiser.memory import keep_freed_memory
from saes.training.optimiser.together import set_learning_rate, take_step
from saes.training.plan import plan
from saes.training.sources import Source, as_read, batches, source_of
from saes.training.sparsity.target import next_factor, weight_factor
from saes.training.spread import collect, spread
from saes.training.verdict import Watch, fvu_of, judge, save_verdict

logger = logging.getLogger(__name__)

DIVERGED = 1000
"""How many times the norm of the activations that of the reconstruction may be."""


def train(config: TrainConfig, store: Source, *, progress: bool = False) -> SAE:
    """Train an SAE, or continue the run in ``config.out``, or return its finished SAE.

    A dictionary over several places is trained by ``train_dictionary``.

    Raises ValueError for impossible settings and for a folder that holds another run; FloatingPointError where a loss
    stops being finite (the last good checkpoint stays).

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> site = "blocks.2.hook_resid_post"
        >>> store = interp.cache_activations(model, rows, site, "acts")
        >>> config = saes.TrainConfig(site=site, out=Path("sae"), k=8, d_sae=128, tokens=4_096, batch_size=512)
        >>> saes.train(config, store)
        SAE(TopK(k=8), d_in=96, d_sae=128, site='blocks.2.hook_resid_post')
    """
    return train_many([config], store, progress=progress)[0]


def train_dictionary(config: TrainConfig, store: Source, *, progress: bool = False) -> Dictionary:
    """``train`` of a transcoder set, cross-layer transcoder or crosscoder (``config.kind``).

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> sites = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
        >>> store = interp.cache_activations(model, rows, sites, "acts")
        >>> options = {"k": 8, "d_sae": 128, "tokens": 1_024, "batch_size": 512}
        >>> config = saes.TrainConfig(kind="crosscoder", reads=sites, out=Path("crosscoder"), **options)
        >>> len(saes.train_dictionary(config, store).layout.reads)
        2
    """
    if getattr(config, "kind", None) is None:
        raise ValueError("this config has no kind: train an SAE or transcoder of one site with saes.train")
    (trained,) = train_all([config], store, progress=progress)
    assert isinstance(trained, Dictionary)
    return trained


def train_many(configs: Sequence[TrainConfig], store: Source, *, progress: bool = False) -> list[SAE]:
    """Train several SAEs in one pass over the data: other sites, variants, sizes, seeds.

    The result is that of training each alone, bit for bit. Under torchrun every process calls this, with the same
    arguments, and gets the SAEs. Raises as ``train``, and ValueError where they do not share the data's order, batch
    size and number of tokens, or share a folder.

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> from dataclasses import replace
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> site = "blocks.2.hook_resid_post"
        >>> store = interp.cache_activations(model, rows, site, "acts")
        >>> config = saes.TrainConfig(site=site, out=Path("a"), k=8, d_sae=128, tokens=1_024, batch_size=512)
        >>> len(saes.train_many([config, replace(config, out=Path("b"), seed=1)], store))
        2
    """
    if kinds := sorted({str(kind) for config in configs if (kind := getattr(config, "kind", None)) is not None}):
        raise ValueError(f"{', '.join(kinds)} among the configs: train those with saes.training.train_all")
    return [sae for sae in train_all(configs, store, progress=progress) if isinstance(sae, SAE)]


@one_for_all()
@torch.enable_grad()
def train_all(configs: Sequence[TrainConfig], store: Source, *, progress: bool = False) -> list[SAE | Dictionary]:
    """``train_many`` of SAEs and of dictionaries over several places.

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> from saes.training import train_all
        >>> model, sites = interp.load_model("embedded"), ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> store = interp.cache_activations(model, rows, sites, "acts")
        >>> options = {"k": 8, "d_sae": 128, "tokens": 1_024, "batch_size": 512}
        >>> one = saes.TrainConfig(site=sites[1], out=Path("one"), **options)
        >>> both = saes.TrainConfig(kind="crosscoder", reads=sites, out=Path("both"), **options)
        >>> [type(each).__name__ for each in train_all([one, both], store)]
        ['SAE', 'Dictionary']
    """
    refuse_inference_mode("training an SAE")
    for config in configs:
        require(config, TrainConfig, what="a config", fix="saes.TrainConfig(site=..., out=..., k=32)")
    require(store, Source, what="a store", fix="interp.ActivationStore(folder), or interp.LiveActivations(...)")
    _check_together(configs, store)
    for config in configs:
        if isinstance(store, HasSites):
            plan(config, store).check(device_of(config), shards=config.latent_shards)
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
        last = _loop(unfinished, store, progress=progress) if unfinished else {}
        for state, config in zip(states, configs, strict=True):
            state.silent = state.sae.group.whole("silent", state.silent)
            if state.finished:
                collect(state.sae)
                continue
            finish(state, config, store)
            dead = int((state.silent >= config.dead_after).sum())
            verdict = judge(state.sae, config, last, dead=dead)
            if leads:
                sync_log(config.out)
                save_verdict(verdict, config.out)
                save(state.sae, config.out)
    return [state.sae.eval() for state in states]


def _continue(state: TrainState, config: TrainConfig) -> None:
    """Take up what the run folder holds: the finished SAE, or the newest checkpoint."""
    if is_finished(config.out):
        state.sae, state.step, state.finished = load_any(config.out), config.steps, True
    else:
        resume(state, config.out)
    tell_of_steps_gone_by(state, config)


def _loop(runs: list[tuple[TrainState, TrainConfig]], store: Source, *, progress: bool) -> dict[str, Tensor]:
    """All steps that are left; returns the last batch."""
    first, leads = runs[0][1], runs[0][0].sae.group.leads
    began, done = time.monotonic(), min(state.step for state, _ in runs)
    sites = sorted({site for _, c in runs for places in c.places for site in places})
    watches = [Watch(config, config.peak_lr(parts_of(state.sae)[0].d_in)) for state, config in runs]
    if done == first.steps:  # ended between its last step and the writing of the SAE
        return next(batches(store, first, sites, done - 1))
    with ExitStack() as stack:
        names = ", ".join(config.activation for _, config in runs)
        show = working(f"train {names}", first.steps, done=done, unit="steps", show=progress)
        advance: Callable[..., None] = stack.enter_context(show) if leads else _write_nothing
        logs = [stack.enter_context(appended_log(c.out)) if leads else _write_nothing for _, c in runs]
        told = [stack.enter_context(OpenSinks(c.log_to if leads else (), c.out, c.to_json())) for _, c in runs]
        stopped = stack.enter_context(held_back()) if processes.current().size == 1 else _never
        for step, batch in enumerate(batches(store, first, sites, done), done):
            for (state, config), log, sinks, watch in zip(runs, logs, told, watches, strict=True):
                if state.step != step:  # this one had come further when the run was killed
                    continue
                reads, writes = ([batch[place] for place in places] for places in config.places)
                train_step(state, reads, config, target=None if config.places[0] == config.places[1] else writes)
                if state.metrics:
                    rate = (step + 1 - done) * config.batch_size / (time.monotonic() - began)
                    figures = {**state.metrics, "tokens_per_second": rate}
                    log({"step": state.step, **figures})
                    sinks.write(state.step, figures)
                    advance(0, _figures(state, rate))
                    watch.see(state.step, state.metrics["fvu"])
                if state.step in config.keep_steps:
                    keep(state, config, store)
                if state.step % config.checkpoint_every == 0:
                    save_checkpoint(state, config.out)
            advance(1)
            if stopped():
                for state, config in runs:
                    save_checkpoint(state, config.out)
                break
    return batch


def _never() -> bool:
    """Several processes do not stop at the same step."""
    return False


def _write_nothing(*_figures: Any) -> None:
    """The log and the progress of processes that do not lead."""


def _figures(state: TrainState, rate: float) -> str:
    m = state.metrics
    fvu = "none" if m["fvu"] is None else f"{m['fvu']:.3f}"
    return f"{rate:,.0f} tokens/s  FVU {fvu}  L0 {m['l0']:.1f}  dead {m['dead']:.0f}"


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
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        forward: Pass | Forward
        if isinstance(sae, SAE):
            forward = losses.run(sae, xs[0], targets[0], dead)
            x_hats = [forward.x_hat]
        else:
            forward = places_losses.run(sae, xs, targets, dead)
            x_hats = list(forward.x_hats)
        latents = (forward.latents,) if isinstance(forward, Pass) else forward.latents
        sparsity = _sparsity(state, latents, config)
        terms = loss_terms(forward, config, sparsity=sparsity)
    powers = [_power(values) for values in (targets, x_hats)]
    shares = group.shares(torch.stack([*terms.values(), *powers]), len(xs[0]), n)
    values, (power, power_hat) = group.total(shares.detach()).tensor_split([-2])

    def stopped(reason: str) -> FloatingPointError:
        shown = ", ".join(f"{name} {value:g}" for name, value in zip(terms, values.tolist(), strict=True))
        start = state.step * config.batch_size
        bad = (~torch.stack([rows.isfinite().all(-1) for rows in read]).all(0)).nonzero().flatten().tolist()
        which = f" ({len(bad)} of them not finite, the first is number {start + bad[0]})" if bad else ""
        kept = state.step >= config.checkpoint_every
        good = f"the last checkpoint in {config.out / 'checkpoints'} is good: " if kept else ""
        return FloatingPointError(
            f"{reason} at step {state.step} ({shown}), on activations {start} to {start + n} of the run{which};"
            f" {good}lower lr ({peak:g}), or check the store"
        )

    if not torch.isfinite(values.sum()):
        raise stopped("the loss is not finite")
    if power_hat > DIVERGED**2 * power.clamp_min(1):
        raise stopped(f"training diverged: the reconstruction has {DIVERGED:,} times the norm of the activations")
    loss = shares[:-2].sum()
    gradient = update(state, loss, latents, tokens=n, decoder=config.decoder, clip=config.clip, stopped=stopped)
    with torch.no_grad():
        logged = state.step % config.log_every == 0 or state.step == config.steps
        found = dict(zip(terms, values, strict=True))
        state.metrics = _metrics(forward, latents, targets, x_hats, found, gradient, state) if logged else {}
        if logged and config.l0 is not None:
            own = config.weights(parts_of(sae)[0].activation)
            for name, factors in sparsity.items():
                state.metrics[f"weight.{name}"] = own[name] * sum(factors) / len(factors)
                if len(factors) > 1:
                    state.metrics |= {f"weight.{name}.{i}": own[name] * factor for i, factor in enumerate(factors)}


def _power(values: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean square of an entry, over all places."""
    squares = [value.detach().square().mean() for value in values]
    return squares[0] if len(squares) == 1 else torch.stack(squares).mean()


def update(
    state: TrainState,
    loss: Float[Tensor, ""],
    latents: Sequence[Latents],
    *,
    tokens: int,
    decoder: str,
    clip: float,
    stopped: Callable[[str], FloatingPointError],
) -> Tensor:
    """One step down the gradient of ``loss``, and what follows every step; returns the gradient's norm before clipping.

    Args:
        loss: This process's share of it.
        latents: Of every part in the forward pass: those that were active, and what the activation learns from them.
        tokens: How many activations the step saw, in all processes.
        decoder: See ``TrainConfig``.
        clip: Largest norm of the gradient.
        stopped: Makes the error to raise, from the reason, where the gradient is not finite; no weight has changed.
    """
    sae, group = state.sae, state.sae.group
    parts = parts_of(sae)
    unit_rows = [part.W_dec if decoder == "unit_norm" else part.W_enc for part in parts if decoder != "free"]
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    group.sum_gradients(sae)
    for part in parts:
        if decoder == "tied":  # one matrix: its gradient is the sum, and W_dec follows after the step
            assert part.W_enc.grad is not None
            assert part.W_dec.grad is not None
            part.W_enc.grad += part.W_dec.grad.T
            part.W_dec.grad = None
            remove_parallel(part.W_enc.grad.T, part.W_enc.T)
        elif decoder == "unit_norm":
            assert part.W_dec.grad is not None
            remove_parallel(part.W_dec.grad, part.W_dec)
    gradient = group.gradient_norm(sae)
    if not torch.isfinite(gradient):
        raise stopped("the gradient is not finite")
    take_step(state.optimizer, scale=(clip / gradient).clamp(max=1), unit_rows=unit_rows)
    with torch.no_grad():
        if decoder == "tied":
            for part in parts:
                part.W_dec.copy_(part.W_enc.T)
        if isinstance(sae, SAE):
            sae.activation.after_step(sae, latents[0])
        else:
            sae.after_step(latents)
        active = torch.zeros_like(state.silent, dtype=torch.bool)
        for row, its in zip(active.view(len(parts), -1), latents, strict=True):
            row[its.indices[its.values != 0]] = True
        state.silent = torch.where(group.over_rows(active.int()) > 0, 0, state.silent + tokens)
        state.step += 1
    return gradient


def _sparsity(state: TrainState, latents: Sequence[Latents], config: TrainConfig) -> dict[str, list[float]]:
    """What every part's weight of each sparsity term is multiplied with in this step: it grows over the warm-up, or
    brings L0 to what was asked for, whose state moves on. Parts that share a budget have the same."""
    if config.l0 is None:
        factor = min(1.0, (state.step + 1) / max(1.0, config.sparsity_warmup * config.steps))
        return dict.fromkeys(SPARSITY, [factor] * len(latents))
    l0 = [_mean_l0(its, state) for its in latents]
    if config.budget == "all":
        l0 = [sum(l0) / len(l0)] * len(l0)
    terms = [term for term in config.weights(parts_of(state.sae)[0].activation) if term in SPARSITY]
    its = list(zip(state.sparsity, l0, strict=True))
    now = {term: [weight_factor(factor, found, config.l0, term=term) for factor, found in its] for term in terms}
    state.sparsity = tuple(
        next_factor(factor, found, config.l0, steps=config.steps, terms=terms) for factor, found in its
    )
    return now


def _mean_l0(latents: Latents, state: TrainState) -> float:
    group = state.sae.group
    return float(group.mean(group.over_latents(latents.l0.float())))


def loss_terms(
    forward: Pass | Forward, config: TrainConfig, *, sparsity: Mapping[str, Sequence[float]]
) -> dict[str, Float[Tensor, ""]]:
    """The weighted terms of the loss; those of sparsity are multiplied with ``sparsity``, which has a factor a part."""
    terms = {}
    activation = forward.sae.activation if isinstance(forward, Pass) else forward.dictionary.activation
    for name, weight in config.weights(activation).items():
        if name == "aux" and not forward.n_dead:
            continue
        factors = sparsity.get(name)
        if isinstance(forward, Pass):
            terms[name] = weight * (factors[0] if factors else 1.0) * TERMS[name](forward)
        else:
            terms[name] = weight * forward.term(name, factors)
    return terms


def _metrics(
    forward: Pass | Forward,
    latents: Sequence[Latents],
    targets: Sequence[Tensor],
    x_hats: Sequence[Tensor],
    terms: dict[str, Tensor],
    gradient: Tensor,
    state: TrainState,
) -> dict[str, float | None]:
    """Of several places, ``fvu`` is the mean over those written and ``l0`` the sum over parts, and each has its own
    beside them."""
    group = state.sae.group
    fvu = [fvu_of(target, x_hat, group) for target, x_hat in zip(targets, x_hats, strict=True)]
    l0 = [_mean_l0(its, state) for its in latents]
    known = [value for value in fvu if value is not None]
    return {
        "loss": float(sum(terms.values())),
        **{name: term.item() for name, term in terms.items()},
        "fvu": sum(known) / len(known) if len(known) == len(fvu) else None,
        "l0": sum(l0),
        "dead": float(forward.n_dead),
        **({"l0_per_dimension": l0[0] / state.alone.d_in} if _chooses(state) else {}),
        **({f"fvu.{i}": value for i, value in enumerate(fvu)} if len(fvu) > 1 else {}),
        **({f"l0.{i}": value for i, value in enumerate(l0)} if len(l0) > 1 else {}),
        "gradient_norm": float(gradient),
        "lr": state.optimizer.param_groups[0]["lr"],
    }


def _chooses(state: TrainState) -> bool:
    """Whether the variant chooses how many latents are active, which may be more than there are dimensions."""
    return isinstance(state.sae, SAE) and isinstance(state.sae.activation, TopAFA)


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
