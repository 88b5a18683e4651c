"""Train the small network, measured as it goes; killed and started again it comes to the same numbers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import read_json, reading, record
from interp.files.tensor_files import read_sealed, write_sealed
from interp.files.writing import write_json
from interp.in_context.measures import Measures, evaluation_sets, mean_of, measure
from interp.in_context.network import AttentionClassifier
from interp.in_context.sequences import Classes, Sequences, draw_classes, generator_of, sequences
from interp.in_context.setting import TrainConfig
from interp.metrics import Estimate
from interp.terminal.progress import progress
from interp.terminal.short_repr import short_repr
from interp.trajectory.change_points import ChangePoints, change_points

CONFIG = "run.json"
FIRST_PHASE = ("copied", "any_label")
"""Measures that change when a network learns to answer with some label of the context."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A training and what was measured at its checkpoints.

    Example:
        >>> from interp.in_context import TrainConfig, train
        >>> run = train(TrainConfig(steps=40, checkpoints=9, sequences=50), "run")
        >>> run.change_points(bootstraps=20).n
        50
    """

    config: TrainConfig
    """What was trained on what."""
    steps: tuple[int, ...]
    """Of the checkpoints that there are."""
    rows: dict[str, Float[Tensor, "steps sequences"]]
    """Measure -> its value on every sequence at every checkpoint; NaN where it is not defined."""
    chance: dict[str, tuple[float, float]]
    """Accuracy -> what guessing any label has, and what copying any label of the context has."""

    __repr__ = short_repr

    def curve(self, name: str) -> list[Estimate]:
        """A measure at every checkpoint, ± over sequences.

        Raises ValueError for a measure that there is not.
        """
        if name not in self.rows:
            raise ValueError(f"{name!r} was not measured; there are {', '.join(self.rows)}")
        return [mean_of(row) for row in self.rows[name]]

    def change_points(self, *, bootstraps: int = 1000) -> ChangePoints:
        """When each measure changed, and in which order (:func:`interp.trajectory.change_points`).

        A network first learns to answer with some label of the context, which lifts all accuracies to a plateau. Where
        that change is clear, the others are looked for after it, but for those of :data:`FIRST_PHASE`.
        """
        rows = {name: row.double().numpy() for name, row in self.rows.items() if not row.isnan().all(1).any()}
        first = change_points(self.steps, {"copied": rows["copied"]}, bootstraps=bootstraps).points["copied"]
        later = [name for name in rows if name.split(".")[0] not in FIRST_PHASE]
        return change_points(
            self.steps, rows, bootstraps=bootstraps, since=dict.fromkeys(later, first.between[1] if first.clear else 0)
        )


def train(config: TrainConfig, out: str | Path, *, tell: Callable[[str], None] = lambda _line: None) -> Run:
    """Train in ``out``, from its last checkpoint where there is one, and return what was measured.

    Batches depend on seed and step alone, so a run that was killed comes to the same weights.

    Args:
        config: as it must be in a folder that holds a run already.
        out: folder of ``run.json`` and ``step{N}.safetensors``: weights, the optimiser's state, and measures.
        tell: called with a line about each checkpoint.

    Raises:
        ValueError: the folder holds another run, or another run is writing it; a checkpoint is damaged; the loss is
            no longer finite.

    Example:
        >>> from interp.in_context import Setting, TrainConfig, train
        >>> run = train(TrainConfig(steps=20, checkpoints=2, sequences=50), "run")
        >>> run.steps
        (0, 10, 20)
    """
    folder = Path(out)
    classes = draw_classes(config, seed=config.seed)
    sets = evaluation_sets(classes, config.sequences, seed=config.seed + 1)  # refuses before there is a folder
    with alone_in(folder):
        if (folder / CONFIG).exists():
            check_same(asdict(_config(folder)), asdict(config), where=folder)
        else:
            write_json(folder / CONFIG, asdict(config))
        _continue(config, classes, sets, folder, tell)
        return load_run(folder)


def _continue(
    config: TrainConfig, classes: Classes, sets: dict[str, Sequences], folder: Path, tell: Callable[[str], None]
) -> None:
    network = AttentionClassifier(
        config, hidden=config.hidden, seed=config.seed, clamped=config.clamped, labels=classes.labels
    )
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    # A checkpoint that is missing between others is made again, from the one before it.
    done = list(takewhile(lambda step: (folder / _name(step)).exists(), config.schedule))
    if done:
        _restore(folder / _name(done[-1]), network, optimizer)
    first = done[-1] if done else 0
    with progress("train", config.steps, unit="steps") as advance:
        advance(first)
        for step in range(first, config.steps + 1):
            if step in config.schedule and step not in done:
                found = measure(network, sets)
                _save(folder / _name(step), network, optimizer, found)
                shown = found.estimates
                tell(f"step {step}: " + ", ".join(f"{name} {shown[name]:.2f}" for name in sets))
            if step == config.steps:
                break
            batch = sequences(classes, config.batch, seed=generator_of(config.seed, 2, step))
            loss = cross_entropy(network(batch.inputs).logits, batch.target)
            if not loss.isfinite():
                raise ValueError(
                    f"the training diverged: its loss is {loss.item():g} at step {step}. Give a learning_rate below"
                    f" {config.learning_rate:g}, and another folder"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(1)


def _name(step: int) -> str:
    return f"step{step}.safetensors"


def _save(path: Path, network: AttentionClassifier, optimizer: torch.optim.Optimizer, found: Measures) -> None:
    state = optimizer.state_dict()["state"]
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"optimizer.{i}.{name}": t for i, each in state.items() for name, t in each.items() if t is not None}
    tensors |= {f"rows.{name}": row for name, row in found.rows.items()}
    tensors |= {f"chance.{name}": torch.tensor(pair, dtype=torch.float64) for name, pair in found.chance.items()}
    write_sealed(path, tensors, {})


def _restore(path: Path, network: AttentionClassifier, optimizer: torch.optim.Optimizer) -> None:
    with reading(path, "is no checkpoint of this run", fix="Delete it, and the run continues from the one before"):
        tensors, _ = read_sealed(path)
        network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
        whole = optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, what = name.split(".")
                whole["state"].setdefault(int(number), {})[what] = tensor.clone()
        optimizer.load_state_dict(whole)


def _config(folder: Path) -> TrainConfig:
    path = folder / CONFIG
    found = read_json(path, "is no run of interp icl train")
    with reading(path, "is no run of interp icl train"):
        return record(TrainConfig, found)


def load_run(folder: str | Path) -> Run:
    """What :func:`train` left in a folder, finished or not.

    Raises:
        ValueError: there is no run, or a file of it is damaged.

    Example:
        >>> from interp.in_context import TrainConfig, load_run, train
        >>> _ = train(TrainConfig(steps=20, checkpoints=2, sequences=50), "run")
        >>> load_run("run").curve("novel")[0].n
        50
    """
    folder = Path(folder)
    config = _config(folder)
    steps = tuple(step for step in config.schedule if (folder / _name(step)).exists())
    if not steps:
        raise ValueError(f"{folder} has no checkpoint yet: let interp icl train go on")
    measured: list[dict[str, Tensor]] = []
    chance: dict[str, tuple[float, float]] = {}
    for step in steps:
        path = folder / _name(step)
        with reading(path, "is no checkpoint of this run", fix="Delete it, and interp icl train makes it again"):
            tensors, _ = read_sealed(path)
            measured.append({n.removeprefix("rows."): t for n, t in tensors.items() if n.startswith("rows.")})
            if {row.shape for row in measured[-1].values()} != {(config.sequences,)} or measured[-1].keys() != measured[
                0
            ].keys():
                raise ValueError("its measures are not those of the run")
            for name in (name for name in tensors if name.startswith("chance.")):
                guessing, copying = tensors[name].tolist()
                chance[name.removeprefix("chance.")] = guessing, copying
    rows = {name: torch.stack([each[name] for each in measured]) for name in sorted(measured[0])}
    return Run(config=config, steps=steps, rows=rows, chance=chance)
