"""Values of another kind than a config's annotations say."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from interp.arguments.fields import require_fields
from interp.counts import Count, Counts
from saes import FinetuneConfig, TrainConfig
from saes.training.config import check


@dataclass
class Config:
    """One field of every kind. Not frozen, so that what no caller may pass can be set."""

    out: Path = Path("out")
    k: int | None = None
    tokens: Count = 5
    l0: float | None = None
    skip: bool = False
    kind: Literal["one", "two"] | None = None
    betas: tuple[float, float] = (0.5, 0.5)
    steps: Counts = ()
    weights: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def changed(name: str, value: object) -> Config:
    config = Config()
    setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", 3), ("l0", 3), ("l0", 0.5), ("l0", np.float64(0.5)), ("kind", "two"), ("betas", (0, 0.5)),
        ("steps", (1, 2, 3)), ("weights", {"l1": 1}), ("options", {"shares": [1.0], "penalty": "tanh"}),
    ],
)  # fmt: skip
def test_what_is_allowed(name: str, value: object) -> None:
    require_fields(changed(name, value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("out", 3, "out is 3; it must be a path: leave it out for PosixPath('out')"),
        ("k", "8", "k is '8'; it must be a whole number or None: pass k=8"),
        ("k", 8.0, "k is 8.0; it must be a whole number or None: pass k=8"),
        ("k", True, "k is True; it must be a whole number or None: leave it out for None"),
        ("k", np.int64(8), "k is np.int64(8); it must be a whole number or None: pass k=8"),
        ("tokens", 1.5, "tokens is 1.5; it must be a whole number: leave it out for 5"),
        ("tokens", float("nan"), "tokens is nan; it must be a whole number: leave it out for 5"),
        ("l0", "8", "l0 is '8'; it must be a number or None: pass l0=8"),
        ("l0", True, "l0 is True; it must be a number or None: leave it out for None"),
        ("skip", 1, "skip is 1; it must be True or False: leave it out for False"),
        ("kind", "three", "kind is 'three'; it must be one of one, two or None: leave it out for None"),
        ("kind", ["one"], "kind is ['one']; it must be one of one, two or None: leave it out for None"),
        ("betas", 0.9, "betas is 0.9; it must be a tuple: a number, a number: leave it out for (0.5, 0.5)"),
        ("betas", [0.9, 0.5], "betas is [0.9, 0.5]; it must be a tuple: a number, a number: pass betas=(0.9, 0.5)"),
        ("betas", (0.9,), "betas is (0.9,); it must be a tuple: a number, a number: leave it out for (0.5, 0.5)"),
        ("steps", 10, "steps is 10; it must be a tuple, of any length, of a whole number each: pass steps=(10,)"),
        ("steps", "12", "steps is '12'; it must be a tuple, of any length, of a whole number each: leave it out"),
        ("weights", {"l1": "3"}, "weights is {'l1': '3'}; it must be a mapping whose values are each a number: leave"),
        ("options", 3, "options is 3; it must be a mapping: leave it out for {}"),
    ],
)  # fmt: skip
def test_what_is_not(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match="it must be") as raised:
        require_fields(changed(name, value))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", [each.name for each in fields(TrainConfig)])
def test_every_field_of_a_training_config_is_looked_at(name: str) -> None:
    _refused(TrainConfig(site="s", out=Path("out"), k=4), name, check)


@pytest.mark.parametrize("name", [each.name for each in fields(FinetuneConfig)])
def test_every_field_of_a_finetuning_config_is_looked_at(name: str) -> None:
    _refused(FinetuneConfig(out=Path("out")), name, require_fields)


def _refused(config: Any, name: str, look: Callable[[Any], None]) -> None:
    object.__setattr__(config, name, {1, 2})
    with pytest.raises(ValueError, match=rf"^{name} is {{1, 2}}; it must be "):
        look(config)


def test_lists_and_texts_become_what_they_stand_for() -> None:
    config = TrainConfig(kind="clt", reads=("a",), writes=("b",), out=Path("out"), k=4)
    for name, value in (("reads", ["a"]), ("out", "out"), ("init_from", "sae"), ("keep_steps", [1])):
        object.__setattr__(config, name, value)  # which the types of a config forbid while tests run
    config.__post_init__()
    require_fields(config)
    assert (config.reads, config.out, config.init_from, config.keep_steps) == (("a",), Path("out"), Path("sae"), (1,))
