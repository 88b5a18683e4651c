"""Several SAEs from one command: the right combinations, in folders of their own."""

import re
from pathlib import Path

import pytest

from saes import TrainConfig
from saes.commands.sweep import expand

CONFIG = TrainConfig(site="s", out=Path("runs"), k=8, loss_weights={"mse": 2.0})


def test_every_combination() -> None:
    runs = expand(CONFIG, ["k=4,16", "seed=0,1,2"])
    assert [(run.k, run.seed) for run in runs] == [(k, seed) for k in (4, 16) for seed in (0, 1, 2)]
    assert runs[4].out == Path("runs/k=16,seed=1")
    assert all(run.loss_weights == {"mse": 2.0} for run in runs)


def test_without_a_sweep_it_is_the_config_itself() -> None:
    assert expand(CONFIG, []) == [CONFIG]


def test_loss_weights_join_the_others() -> None:
    runs = expand(CONFIG, ["loss-weights.l1=0.5,1"])
    assert [run.loss_weights for run in runs] == [{"mse": 2.0, "l1": 0.5}, {"mse": 2.0, "l1": 1.0}]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["tokens=1,2"], "cannot sweep 'tokens=1,2'; write name=value,value with one of site, activation, k"),
        (["k"], "cannot sweep 'k'"),
        (["k=4,many"], "cannot sweep 'k=4,many': invalid literal"),
        (["k=4,4"], "'k=4,4' names a value twice"),
        (["k=4", "k=8"], "a setting is swept twice"),
    ],
)
def test_nonsense_is_refused(sweep: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        expand(CONFIG, sweep)
