"""Several configs from one: ``k=16,32 seed=0,1`` are four SAEs, trained in one pass over the data."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from saes.training.config import TrainConfig

READERS: dict[str, Callable[[str], Any]] = {
    "site": str,
    "activation": str,
    "k": int,
    "l0": float,
    "d_sae": int,
    "optimizer": str,
    "lr": float,
    "adam_eps": float,
    "warmup": float,
    "decay": float,
    "sparsity_warmup": float,
    "seed": int,
    "kind": str,
    "budget": str,
}
"""Settings that can be swept; ``loss_weights.NAME`` too."""
_WEIGHT = "loss_weights."


def expand(config: TrainConfig, sweep: Sequence[str]) -> list[TrainConfig]:
    """Every combination of the swept settings, each with a folder of its own below ``config.out``.

    Args:
        config: All other settings.
        sweep: Texts such as ``k=16,32`` or ``loss_weights.l1=1,2``.

    Raises:
        ValueError: naming the setting that cannot be swept, is swept twice, or has a value of another type.
    """
    axes = [_axis(text) for text in sweep]
    if len({name for name, _ in axes}) < len(axes):
        raise ValueError(f"a setting is swept twice: {' '.join(sweep)}")
    runs = []
    for values in itertools.product(*(values for _, values in axes)):
        run = replace(
            config, out=config.out / ",".join(f"{name}={v}" for (name, _), v in zip(axes, values, strict=True))
        )
        for (name, _), value in zip(axes, values, strict=True):
            run = _with(run, name, value)
        runs.append(run)
    return runs


def _with(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    if name.startswith(_WEIGHT):
        return replace(config, loss_weights={**config.loss_weights, name.removeprefix(_WEIGHT): value})
    return replace(config, **{name: value})


def _axis(text: str) -> tuple[str, list[Any]]:
    name, _, listed = text.partition("=")
    name = name.replace("-", "_")
    read = float if name.startswith(_WEIGHT) else READERS.get(name)
    if read is None or not listed:
        raise ValueError(
            f"cannot sweep {text!r}; write name=value,value with one of {', '.join(READERS)}, {_WEIGHT}NAME"
        )
    try:
        values = [read(value) for value in listed.split(",")]
    except ValueError as error:
        raise ValueError(f"cannot sweep {text!r}: {error}") from error
    if len(set(values)) < len(values):
        raise ValueError(f"{text!r} names a value twice")
    return name, values
