"""The folder of a training run: what was asked, the log, and checkpoints from which it continues.

``train.json`` says what was asked, ``log.jsonl`` has a line every few steps, ``checkpoints/`` holds single safetensors
files with a checksum inside, each whole or absent, and at the end the SAE itself stands beside them.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import read_json
from interp.files.tensor_files import read_sealed, write_sealed
from interp.files.writing import atomic_path, sync_file, sync_folder, told_if_full, write_json
from saes.sae import CONFIG
from saes.training.config import UNSAID
from saes.training.stepping.state import TrainState

logger = logging.getLogger(__name__)

KEEP_CHECKPOINTS = 2
LOG = "log.jsonl"
_CHECKPOINTS = "checkpoints"


@contextmanager
def claim(folder: Path, asked: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Make the run folder, or check that the run in it is the one ``asked`` for; inside, no other run is in it.

    A finished run is only read, so it needs no lock.

    Raises:
        ValueError: the folder holds another run (with the differences), or an SAE from elsewhere; or another process
            is writing there.
    """
    path = folder / "train.json"
    asked = json.loads(json.dumps(asked))  # as it will be read again: a tuple is a list there
    with nullcontext() if is_finished(folder) else alone_in(folder, below=[_CHECKPOINTS]):
        if path.is_file():
            check_same(read_json(path), asked, where=folder, unsaid={"train": UNSAID})
        elif is_finished(folder):
            raise ValueError(
                f"{folder} holds an SAE that no run there has made (no {path.name}); choose another folder"
            )
        else:
            write_json(path, asked)
        yield


def is_finished(folder: Path) -> bool:
    """Whether the SAE is written, and nothing is left to do."""
    return (folder / CONFIG).is_file()


def save_checkpoint(state: TrainState, folder: Path) -> None:
    """One file with weights, the optimiser's moments and counters; older ones are removed afterwards.

    The log's lines up to here reach the disk first: a run that continues from the checkpoint does not write them again.
    Of several processes, which all call this, the leader writes; the file does not tell how many there were.
    """
    group, tensors = state.sae.group, {}
    for key, name, part in _parts(state):
        whole = group.whole(name, part)
        if group.leads:
            tensors[key] = whole
    if not group.leads:
        return
    header = {"step": state.step, "scale": _plain(state.scales), "target_scale": _plain(state.target_scales)}
    header["sparsity"] = _plain(state.sparsity)
    sync_log(folder)
    path = folder / _CHECKPOINTS / f"step{state.step:09d}.safetensors"
    write_sealed(path, tensors, {"state": json.dumps(header)})
    _prune(folder)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / _CHECKPOINTS).glob("step*.safetensors"))


def _prune(folder: Path) -> None:
    for old in _checkpoints(folder)[:-KEEP_CHECKPOINTS]:
        old.unlink()


def _parts(state: TrainState) -> Iterator[tuple[str, str, Tensor]]:
    """What a checkpoint holds, as key, name of the weight that it belongs to, and this process's part."""
    yield "silent", "silent", state.silent
    for name, parameter in state.sae.named_parameters():
        yield f"weight.{name}", name, parameter.detach()
        for key, value in state.optimizer.state.get(parameter, {}).items():
            yield f"adam.{name}.{key}", name, value  # as it was when there was no other optimiser


def resume(state: TrainState, folder: Path) -> None:
    """Put the newest checkpoint that is whole, if there is one, into ``state``, and the log to where it was then.

    A damaged one is logged, and the one before is taken: the run ends with the same bits either way.
    """
    faults = []
    for path in reversed(_checkpoints(folder)):
        try:
            _restore(state, path)
            break
        except ValueError as error:
            faults.append(f"{error}; not used")
    for fault in faults:
        logger.warning("%s: continuing from step %d", fault, state.step)
    _prune(folder)
    _truncate_log(folder, state.step)


@torch.no_grad()
def _restore(state: TrainState, path: Path) -> None:
    """Raises ValueError, and changes nothing, where the file is damaged or holds something else."""
    tensors, metadata = read_sealed(path)
    wanted = {key: part for key, _, part in _parts(state)}
    if {key: tensor.shape for key, tensor in tensors.items()} != {key: part.shape for key, part in wanted.items()}:
        raise ValueError(f"{path} does not hold the weights and moments of this run")
    try:
        header = json.loads(metadata["state"])
        step, scales, target_scales = int(header["step"]), _numbers(header["scale"]), _numbers(header["target_scale"])
        sparsity = _numbers(header.get("sparsity", 1.0))  # files of before there was an L0 target
        if len(sparsity) == 1:  # and of before every part had its own
            sparsity *= len(state.sparsity)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say which step it is of") from error
    for key, part in wanted.items():
        part.copy_(tensors[key])
    state.step, state.scales, state.target_scales, state.sparsity = step, scales, target_scales, sparsity


def _plain(numbers: tuple[float, ...]) -> float | list[float]:
    """As it is written: a number where there is one, as in the files before there were several places."""
    return numbers[0] if len(numbers) == 1 else list(numbers)


def _numbers(written: Any) -> tuple[float, ...]:
    return tuple(map(float, written)) if isinstance(written, list) else (float(written),)


def sync_log(folder: Path) -> None:
    """Wait until the log is on the disk, by its name too."""
    path = folder / LOG
    if path.is_file():
        with told_if_full(path):
            sync_file(path)
            sync_folder(folder)


@contextmanager
def appended_log(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields what writes one line of figures into the folder's log."""
    path = folder / LOG
    with told_if_full(path), path.open("a", encoding="utf-8") as log:

        def write(figures: dict[str, Any]) -> None:
            log.write(json.dumps(figures) + "\n")
            log.flush()

        yield write


def _truncate_log(folder: Path, step: int) -> None:
    """Drop log lines after ``step`` (those steps run again) and those that a kill or the disk has damaged."""
    path, kept = folder / LOG, []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    with atomic_path(path) as partial:
        partial.write_bytes(b"".join(kept))
