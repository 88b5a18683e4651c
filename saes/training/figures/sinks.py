"""Where a run's figures go besides its own log: TensorBoard, wandb, trackio. A sink that fails is dropped, not the run.

The tools are imported when they are asked for; each takes up the run's earlier figures where it can.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

PROJECT = "deepfield"
Figures = Mapping[str, float]
"""Of one step."""


class Sink(NamedTuple):
    """An open sink."""

    write: Callable[[int, Figures], Any]
    close: Callable[[], Any]


def _tensorboard(folder: Path, _config: dict[str, Any]) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder / "tensorboard")

    def write(step: int, figures: Figures) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return Sink(write, writer.close)


def _wandb(folder: Path, config: dict[str, Any]) -> Sink:
    import wandb

    run = wandb.init(project=PROJECT, name=folder.name, id=_run_id(folder), resume="allow", dir=folder, config=config)
    return Sink(lambda step, figures: run.log(dict(figures), step=step), run.finish)


def _trackio(folder: Path, config: dict[str, Any]) -> Sink:
    import trackio

    run = trackio.init(project=PROJECT, name=f"{folder.name}-{_run_id(folder)}", resume="allow", config=config)
    return Sink(lambda step, figures: run.log(dict(figures), step=step), run.finish)


SINKS: Mapping[str, Callable[[Path, dict[str, Any]], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


class OpenSinks(AbstractContextManager["OpenSinks"]):
    """The sinks of one run.

    Args:
        names: Of ``SINKS``.
        folder: The run's; TensorBoard and wandb write into it.
        config: What the run trains, for those that show it.
    """

    def __init__(self, names: Sequence[str], folder: Path, config: dict[str, Any]) -> None:
        self._open: dict[str, Sink] = {}
        for name in names:
            opened = _tried(name, SINKS[name], folder, config)
            if opened is not None:
                self._open[name] = opened

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """One line of figures; what is None is left out."""
        known = {name: value for name, value in figures.items() if value is not None}
        for name, sink in list(self._open.items()):
            if _tried(name, _write, sink, step, known) is None:
                del self._open[name]

    def __exit__(self, *_: object) -> None:
        for name, sink in self._open.items():
            _tried(name, sink.close)


def _write(sink: Sink, step: int, figures: Figures) -> bool:
    sink.write(step, figures)
    return True


def _tried(name: str, action: Callable[..., Any], *arguments: Any) -> Any:
    """What ``action`` returns, or None after saying what went wrong."""
    try:
        return action(*arguments)
    except Exception as error:  # whatever a tool or its server does, training goes on
        first = (str(error).strip().splitlines() or [""])[0]
        logger.warning("%s gets no more figures of this run: %s %s", name, type(error).__name__, first)
        return None


def _run_id(folder: Path) -> str:
    """The same when the run is continued."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
