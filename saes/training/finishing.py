"""What a run hands over: weights put together from all processes, thresholds calibrated, for raw activations."""

import copy
import logging
from dataclasses import replace
from pathlib import Path

from saes.places.dictionary import Dictionary
from saes.places.files import save_dictionary
from saes.sae import SAE
from saes.training.calibration import calibrate, first_inputs
from saes.training.checkpoints import is_finished
from saes.training.config import TrainConfig
from saes.training.sources import Source
from saes.training.stepping.spread import collect
from saes.training.stepping.state import TrainState

logger = logging.getLogger(__name__)

SPARSITY_FACTOR = "sparsity_factor"
"""In the provenance of an SAE with an L0 that was asked for: what its weights of sparsity losses came to, as a multiple
of those of the config. Fine-tuning goes on from there."""
STEPS = "steps"
"""In a run's folder: a folder with an SAE for each of ``keep_steps``."""


def finish(state: TrainState, config: TrainConfig, store: Source) -> None:
    """In place: what is trained is ready to be used and saved."""
    calibrate(state.sae, first_inputs(state, config, store), config.l0, together=config.budget == "all")
    collect(state.sae)
    if isinstance(state.sae, SAE):
        if config.l0 is not None:
            state.sae.provenance = state.sae.provenance | {SPARSITY_FACTOR: state.sparsity[0]}
        state.sae.fold_scales(state.scale, state.target_scales[0])
        state.sae.layer_norm = config.normalisation == "layer_norm"
    else:
        state.sae.fold_scales(state.scales, state.target_scales)
    state.sae.eval()


def save(sae: SAE | Dictionary, folder: Path) -> None:
    """An SAE, or a dictionary over several places, each in its format."""
    if isinstance(sae, SAE):
        sae.save(folder)
    else:
        save_dictionary(sae, folder)


def keep(state: TrainState, config: TrainConfig, store: Source) -> None:
    """Write what there is at this step as if the run had ended, beside the run, which goes on as if nothing was."""
    group = state.sae.group
    # Weights are copied; the group holds the connections to other processes, and is the same.
    kept = replace(state, sae=copy.deepcopy(state.sae, {id(group): group}))
    finish(kept, config, store)
    if group.leads:
        kept.sae.provenance = kept.sae.provenance | {"step": state.step}
        save(kept.sae, _folder(config, state.step))


def tell_of_steps_gone_by(state: TrainState, config: TrainConfig) -> None:
    """Warn of those of ``keep_steps`` that the run has passed without keeping them: their weights are not there."""
    gone = [step for step in config.keep_steps if step <= state.step and not is_finished(_folder(config, step))]
    if gone:
        there = sorted(int(path.name) for path in (config.out / STEPS).glob("[0-9]*") if is_finished(path))
        logger.warning(
            "%s %s, so that keep_steps cannot keep %s any more: %s; train again in another folder for those",
            config.out,
            "is finished" if state.finished else f"is at step {state.step}",
            ", ".join(map(str, gone)),
            f"of its steps there are {', '.join(map(str, there))}" if there else "none of its steps was kept",
        )


def _folder(config: TrainConfig, step: int) -> Path:
    return config.out / STEPS / f"{step:09d}"
