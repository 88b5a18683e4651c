"""The folder of a training run: what was asked, the log, and checkpoints from which it continues.

``train.json`` says what was asked, ``log.jsonl`` has a line every few steps, ``checkpoints/`` holds single safetensors
files, each whole or absent, and at the end the SAE itself stands beside them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.files import atomic_path, write_json
from saes.sae import SAE

KEEP_CHECKPOINTS = 2


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    sae: SAE
    optimizer: torch.optim.Adam
    scale: float
    """Inputs are multiplied by it."""
    target_scale: float
    """So are a transcoder's targets; elsewhere equal to ``scale``."""
    silent: Int[Tensor, " d_sae"]
    """Steps since each latent was last active."""
    step: int = 0
    """Steps done."""
    finished: bool = False
    """The SAE is written, and nothing is left to do."""
    metrics: dict[str, float] = field(default_factory=dict)


def claim(folder: Path, asked: dict[str, dict[str, Any]]) -> None:
    """Make the run folder, or check that the run in it is the one ``asked`` for.

    Raises ValueError with the differences where it is another one.
    """
    path = folder / "train.json"
    asked = json.loads(json.dumps(asked))  # as it will be read again: a tuple is a list there
    if not path.is_file():
        write_json(path, asked)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    differences = [
        f"{part}.{key}: there {found.get(part, {}).get(key)!r}, asked {wanted.get(key)!r}"
        for part, wanted in asked.items()
        for key in sorted(found.get(part, {}).keys() | wanted.keys())
        if found.get(part, {}).get(key) != wanted.get(key)
    ]
    if differences:
        raise ValueError(f"{folder} holds another run ({'; '.join(differences)}); choose another --out")


def save_checkpoint(state: TrainState, folder: Path) -> None:
    """One file with weights, Adam's moments and counters; older ones are removed afterwards.

    Of several processes, which all call this, the leader writes; the file does not tell how many there were.
    """
    group, tensors = state.sae.group, {}
    for key, name, part in _parts(state):
        whole = group.whole(name, part)
        if group.leads:
            tensors[key] = whole.contiguous()
    if not group.leads:
        return
    header = {"step": state.step, "scale": state.scale, "target_scale": state.target_scale}
    checkpoints = folder / "checkpoints"
    with atomic_path(checkpoints / f"step{state.step:09d}.safetensors") as partial:
        save_file(tensors, partial, metadata={"state": json.dumps(header)})
    for old in sorted(checkpoints.glob("step*.safetensors"))[:-KEEP_CHECKPOINTS]:
        old.unlink()


def _parts(state: TrainState) -> Iterator[tuple[str, str, Tensor]]:
    """What a checkpoint holds, as key, name of the weight that it belongs to, and this process's part."""
    yield "silent", "silent", state.silent
    for name, parameter in state.sae.named_parameters():
        yield f"weight.{name}", name, parameter.detach()
        for key, value in state.optimizer.state.get(parameter, {}).items():
            yield f"adam.{name}.{key}", name, value


def resume(state: TrainState, folder: Path) -> None:
    """Put the newest checkpoint, if there is one, into ``state``."""
    found = sorted((folder / "checkpoints").glob("step*.safetensors"))
    if not found:
        return
    with safe_open(found[-1], framework="pt") as file, torch.no_grad():
        header = json.loads(file.metadata()["state"])
        state.step = int(header["step"])
        state.scale, state.target_scale = float(header["scale"]), float(header["target_scale"])
        state.silent.copy_(file.get_tensor("silent"))
        for name, parameter in state.sae.named_parameters():
            parameter.copy_(file.get_tensor(f"weight.{name}"))
            for key, moment in state.optimizer.state.get(parameter, {}).items():
                moment.copy_(file.get_tensor(f"adam.{name}.{key}"))


def truncate_log(path: Path, step: int) -> None:
    """Drop log lines after ``step`` (those steps run again), and a last line that a kill cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry: Mapping[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            break
        if entry["step"] <= step:
            kept.append(line + "\n")
    with atomic_path(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")
