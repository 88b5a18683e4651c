"""Fine-tune a trained SAE end to end: the model's loss with the reconstruction spliced in, at the end of the model.

Braun et al. 2024 (arXiv 2405.12241) train whole SAEs like this; as a short last phase it costs little and recovers most
of the loss (Karvonen 2025, arXiv 2503.17272). The batch of a step depends on seed and step alone, so a killed run
continues to the same bits.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import metrics
from interp.arguments.fields import require_fields
from interp.arguments.kinds import require
from interp.inference_mode import refuse_inference_mode
from interp.models.bridge import Model
from interp.sites.site import Site
from interp.sites.splicing import spliced_logits, vectors_at
from interp.stopping import held_back
from interp.store.shuffle import Permutation
from interp.terminal.progress import progress as working
from interp.tokens.batches import measured
from interp.tokens.token_rows import TokenRows, require_rows
from saes import losses
from saes.losses import SPARSITY
from saes.own_sites import is_transcoder, own_sites
from saes.sae import SAE
from saes.same_model import check_same_model, name_of
from saes.training.calibration import batch_count, calibrate
from saes.training.checkpoints import (
    appended_log,
    claim,
    is_finished,
    resume,
    save_checkpoint,
    sync_log,
)
from saes.training.finetune_config import FinetuneConfig
from saes.training.finishing import SPARSITY_FACTOR
from saes.training.initial import fresh_state
from saes.training.optimiser.together import optimizer_for, set_learning_rate
from saes.training.stepping.loss import loss_terms
from saes.training.stepping.sparsity import controlled
from saes.training.stepping.state import TrainState
from saes.training.stepping.weights import update

BETAS = (0.9, 0.999)
"""Of Adam, as is usual: others were compared in training from activations alone."""


@torch.enable_grad()
def finetune(sae: SAE, model: Model, rows: TokenRows, config: FinetuneConfig, *, progress: bool = False) -> SAE:
    """Fine-tune a copy of ``sae`` at its site, or continue the run in ``config.out``, or return its finished SAE.

    The model's weights are not touched. Terms of the loss that keep a variant sparse (L1, L0, the gate's) stay, with
    the weights that the SAE was trained with; where an L0 was asked for, the one that it has on this text is kept.

    Raises:
        ValueError: impossible settings, an SAE without a site or of another width or model, a transcoder, or a folder
            that holds another run.
        FloatingPointError: the loss stopped being finite; the last good checkpoint stays.

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=2_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> config = saes.FinetuneConfig(out=Path("tuned"), tokens=1_024, batch_rows=2)
        >>> saes.finetune(sae, model, rows, config).site
        'blocks.2.hook_resid_post'
    """
    require(sae, SAE, what="an SAE", fix="saes.SAE.load(folder)")
    require_rows(rows)
    refuse_inference_mode("fine-tuning an SAE", sae, model)
    site = _check(sae, model, rows, config)
    check_same_model(sae, name_of(model))
    asked = {"finetune": config.to_json(), "sae": sae.provenance, "data": {"fingerprint": rows.fingerprint}}
    with claim(config.out, asked):
        if is_finished(config.out):
            return SAE.load(config.out)
        state = _initial_state(sae, model, rows, site, config)
        l0 = _l0_to_keep(state, model, rows, site, config)
        resume(state, config.out)
        _loop(state, model, rows, site, config, l0, progress=progress)
        calibrate(state.alone, _first_inputs(state, model, rows, site, config), l0)
        state.alone.eval().fold_scales(state.scale)
        sync_log(config.out)
        state.alone.save(config.out)
    return state.alone


def _loop(
    state: TrainState,
    model: Model,
    rows: TokenRows,
    site: Site,
    config: FinetuneConfig,
    l0: float | None,
    *,
    progress: bool,
) -> None:
    steps = _steps(rows, config)
    with (
        _frozen(model),
        appended_log(config.out) as log,
        working("fine-tune", steps, done=state.step, unit="steps", show=progress) as advance,
        held_back() as stopped,
    ):
        while state.step < steps and not stopped():
            _step(state, model, rows, site, config, steps, l0)
            if state.step % config.log_every == 0 or state.step == steps:
                log({"step": state.step, **state.metrics})
                shown = "  ".join(f"{name} {state.metrics[name]:.3f}" for name in (config.loss, "fvu", "l0"))
                advance(0, shown)
            advance(1)
            if state.step % config.checkpoint_every == 0 or stopped():
                save_checkpoint(state, config.out)


def _check(sae: SAE, model: Model, rows: TokenRows, config: FinetuneConfig) -> Site:
    require_fields(config)
    if is_transcoder(sae):
        raise ValueError("a transcoder's output stands at another site than its input; only SAEs are fine-tuned")
    for name in ("tokens", "batch_rows", "checkpoint_every", "log_every", "lr", "clip"):
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be above 0")
    if not 0 <= config.reconstruction < math.inf:
        raise ValueError(f"reconstruction is {config.reconstruction}; it must be 0 or more")
    context = rows.ids.shape[1]
    if not 0 <= config.first_position < context - 1:
        raise ValueError(f"first_position is {config.first_position}; rows have {context} tokens")
    return own_sites(sae, model=model)[0]


def _initial_state(sae: SAE, model: Model, rows: TokenRows, site: Site, config: FinetuneConfig) -> TrainState:
    """A copy at the scale of its training, where learning rates and weights of losses mean what they meant there."""
    first = slice(0, 8)
    ids, real = rows.tensor_of("ids", first), rows.tensor_of("documents", first) >= 0
    x = vectors_at(model, ids, site, attention_mask=real).float().flatten(0, 1)
    if x.shape[-1] != sae.d_in:
        raise ValueError(f"activations at {site} have width {x.shape[-1]}, the SAE takes {sae.d_in}")
    if config.decoder == "unit_norm":
        norms = sae.decoder_norms().detach()
        if not 0 < norms.max() <= 1.01 * norms.min():
            raise ValueError(
                f"rows of W_dec have norms from {norms.min():g} to {norms.max():g}, so this SAE was not trained with a"
                " unit-norm decoder; pass decoder='free'"
            )
        scale = 1 / float(norms.mean())
    else:
        scale = math.sqrt(sae.d_in) / float(x.norm(dim=-1).median())
    own = copy.deepcopy(sae).to(x.device)
    own.provenance = sae.provenance | {"finetune": config.to_json()}
    made_by = partial(optimizer_for, betas=BETAS)
    state = fresh_state(own.fold_scales(1 / scale), (scale,), (scale,), decoder=config.decoder, made_by=made_by)
    state.sparsity = (float(sae.provenance.get(SPARSITY_FACTOR, 1.0)),)
    return state


def _trained(sae: SAE) -> dict[str, Any]:
    """What was asked of its training; nothing where another tool trained it."""
    said = sae.provenance.get("train")
    return said if isinstance(said, dict) else {}


def _weights(sae: SAE) -> dict[str, float]:
    """Of the terms beside the model's loss and the FVU, as in training. No latent dies in a short phase with a small
    learning rate, so AuxK is left out."""
    weights = {**sae.activation.loss_weights, **_trained(sae).get("loss_weights", {})}
    return {name: weight for name, weight in weights.items() if weight and name not in ("mse", "aux")}


def _l0_to_keep(state: TrainState, model: Model, rows: TokenRows, site: Site, config: FinetuneConfig) -> float | None:
    """Of an SAE that was brought to an L0, what it has on the first batches, before any step."""
    if _trained(state.alone).get("l0") is None:
        return None
    with torch.no_grad():
        found = [state.alone.encode(x).l0.float() for (x,) in _first_inputs(state, model, rows, site, config)]
    return float(torch.cat(found).mean())


def _step(
    state: TrainState,
    model: Model,
    rows: TokenRows,
    site: Site,
    config: FinetuneConfig,
    steps: int,
    l0: float | None,
) -> None:
    ids, documents = (part.to(state.silent.device) for part in _batch(rows, config, state.step))
    where = measured(documents, config.first_position, ids=ids, drop_tokens=config.drop_tokens)
    predicting = where[:, :-1] & where[:, 1:]
    with torch.no_grad():
        clean = model(ids) if config.loss == "kl" else None
        x = vectors_at(model, ids, site, attention_mask=documents >= 0).float()
    forward = losses.run(state.alone, x[where] * state.scale, x[where] * state.scale, state.silent < 0)
    replacement = x.index_put((where,), forward.x_hat / state.scale)
    logits = spliced_logits(model, ids, site, replacement, where=where)
    values = metrics.cross_entropy(logits, ids) if clean is None else metrics.kl(clean, logits)[:, :-1]
    variance = (forward.target - forward.target.mean(0)).square().mean()
    fvu = losses.mse(forward) / variance
    terms = {config.loss: values[predicting].mean(), "fvu": fvu * config.reconstruction}
    weights, sparsity = _weights(state.alone), {}
    if l0 is not None:
        sparse = [name for name in weights if name in SPARSITY]
        sparsity = controlled(state, (forward.latents,), l0, terms=sparse, steps=steps, together=False)
    terms |= loss_terms(forward, weights, sparsity=sparsity)
    loss = torch.stack(list(terms.values())).sum()

    def stopped(reason: str) -> FloatingPointError:
        shown = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
        return FloatingPointError(
            f"{reason} at step {state.step} ({shown}); the last checkpoint in {config.out / 'checkpoints'} is good:"
            f" lower lr ({config.lr:g})"
        )

    if not torch.isfinite(loss):
        raise stopped("the loss is not finite")
    set_learning_rate(state.optimizer, state.step, peak=config.lr, steps=steps, warmup=0.05, decay=0.95)
    decoder, clip = config.decoder, config.clip
    tokens = len(forward.x)
    gradient = update(state, loss, (forward.latents,), tokens=tokens, decoder=decoder, clip=clip, stopped=stopped)
    state.metrics = {
        "loss": loss.item(),
        **{name: term.item() for name, term in terms.items()},
        "fvu": fvu.item(),
        "l0": float(forward.latents.l0.float().mean()),
        "gradient_norm": float(gradient),
    }


def _first_inputs(
    state: TrainState, model: Model, rows: TokenRows, site: Site, config: FinetuneConfig
) -> Iterator[list[Float[Tensor, "n d"]]]:
    """What the run's first batches show the SAE."""
    count = batch_count(config.tokens, config.batch_rows * rows.ids.shape[1])
    for step in range(min(count, _steps(rows, config))):
        ids, documents = (part.to(state.silent.device) for part in _batch(rows, config, step))
        x = vectors_at(model, ids, site, attention_mask=documents >= 0).float()
        where = measured(documents, config.first_position, ids=ids, drop_tokens=config.drop_tokens)
        yield [x[where] * state.scale]


def _steps(rows: TokenRows, config: FinetuneConfig) -> int:
    return math.ceil(config.tokens / (config.batch_rows * rows.ids.shape[1]))


def _batch(
    rows: TokenRows, config: FinetuneConfig, step: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Token ids and documents of one step: the rows in an order of their own in every epoch."""
    per_epoch = math.ceil(len(rows.ids) / config.batch_rows)
    epoch, index = divmod(step, per_epoch)
    begin = index * config.batch_rows
    chosen = np.sort(Permutation(len(rows.ids), config.seed + epoch).part(begin, begin + config.batch_rows))
    return rows.tensor_of("ids", chosen), rows.tensor_of("documents", chosen)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradient is kept for the model's parameters; they are as before afterwards."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter, before in asked.items():
            parameter.requires_grad_(before)
