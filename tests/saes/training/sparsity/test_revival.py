"""Latents that are silent come back where AuxK is on, as it is by default, and stay away where it is not."""

from pathlib import Path

import pytest
import torch

from saes import TrainConfig
from saes.activations import JumpReLU
from saes.training import initial_state
from saes.training.step import train_step
from saes.training.stepping.state import TrainState
from tests.saes.sources import MemorySource, planted

DATA = planted(4096, d=32, features=64, active=4)[0]
BATCH, STEPS, SILENCED = 128, 40, 32


def silenced(config: TrainConfig) -> TrainState:
    """No row brings the first half of the latents above what keeps them silent, or within reach of its gradient."""
    state = initial_state(config, MemorySource(DATA))
    sae = state.alone
    with torch.no_grad():
        highest = 1.05 * (sae.centred(DATA * state.scale) @ sae.W_enc).amax(0)[:SILENCED]
        if isinstance(sae.activation, JumpReLU):
            sae.threshold[:SILENCED] = highest + sae.activation.bandwidth / 2
        else:
            sae.b_enc[:SILENCED] = -highest
    state.silent[:SILENCED] = config.dead_after
    return state


@pytest.mark.parametrize(("activation", "expected"), [("gated", 20), ("jumprelu", 10)])
def test_dead_latents_come_back(activation: str, expected: int, tmp_path: Path) -> None:
    back = {}
    for name, weights in {"default": {}, "off": {"aux": 0.0}}.items():
        config = TrainConfig(
            site="s", out=tmp_path, activation=activation, l0=4.0, d_sae=64, batch_size=BATCH, tokens=STEPS * BATCH,
            lr=7e-3, dead_after_tokens=1024, loss_weights=weights, log_every=1,
        )  # fmt: skip
        state, seen = silenced(config), torch.zeros(SILENCED, dtype=torch.bool)
        for batch in [*DATA.split(BATCH)] * 2:
            if state.step == STEPS:
                break
            train_step(state, batch, config)
            assert ("aux" in state.metrics) == (name == "default" and state.metrics["dead"] != 0)
            seen |= state.silent[:SILENCED] == 0
        back[name] = int(seen.sum())
    assert back["off"] == 0
    assert back["default"] >= expected
