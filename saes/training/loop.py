"""Train SAEs from activations, to be read top to bottom.

Nothing random happens after the initialisation, and the source gives the same batch for the same step, so a run that
was killed at any step ends, when started again, with the same bits. Several SAEs share one pass over the data; each
takes the steps that it would take alone. A step is ``saes.training.step``.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp import processes
from interp.arguments.kinds import require
from interp.inference_mode import refuse_inference_mode
from interp.stopping import held_back
from interp.terminal.progress import progress as working
from saes.distributed.launch import arrange, one_for_all
from saes.places.dictionary import Dictionary, parts_of
from saes.places.files import load_any
from saes.places.stores import HasSites
from saes.sae import SAE
from saes.training.checkpoints import appended_log, claim, is_finished, resume, save_checkpoint, sync_log
from saes.training.config import TrainConfig, check
from saes.training.figures.sinks import OpenSinks
from saes.training.figures.site_statistics import SiteStatistics
from saes.training.finishing import finish, keep, save, tell_of_steps_gone_by
from saes.training.initial import device_of, initial_state
from saes.training.plan import plan
from saes.training.sources import Source, batches, source_of
from saes.training.step import train_step
from saes.training.stepping.spread import collect, spread
from saes.training.stepping.state import TrainState
from saes.training.verdict import Watch, judge, save_verdict

logger = logging.getLogger(__name__)


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
