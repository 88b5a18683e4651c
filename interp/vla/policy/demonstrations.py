"""Demonstrations: the experts' episodes on disk, in shards that are whole or absent."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from interp.files.tensor_files import read_sealed, write_sealed
from interp.terminal.progress import counted
from interp.vla.policy.experts import act
from interp.vla.policy.words import DIRECTIONS, REACH, SPEEDS, TASKS
from interp.vla.simulator import Camera, Reach

logger = logging.getLogger(__name__)

EPISODES, STEPS, SHARD = 480, 30, 40
"""Episodes, steps of each, and episodes in a shard."""
_REACH_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Steps of all episodes; instructions are worded when a batch is drawn, from task and speed."""

    hand: Float[np.ndarray, "steps 3"]
    """Where the hand is, in metres."""
    goal: Float[np.ndarray, "steps 3"]
    """Where the goal is, in metres."""
    action: Float[np.ndarray, "steps 3"]
    """What the demonstrator does, each entry in [-1, 1]."""
    task: Int[np.ndarray, " steps"]
    """Number of the step's task in ``words.TASKS``."""
    speed: Int[np.ndarray, " steps"]
    """Number of the step's speed in ``words.SPEEDS``."""
    image: UInt8[np.ndarray, "steps size size 3"] | None = None
    """What the camera sees; None for demonstrations without one."""

    def __len__(self) -> int:
        return len(self.hand)


def demonstrate(
    folder: Path,
    *,
    seed: int,
    camera: int | None = None,
    episodes: int = EPISODES,
) -> Demonstrations:
    """Let the experts act, keep it in ``folder``, and read it; shards that are there and whole are not made again.

    ``camera`` is the width of a square picture a step, in pixels, or None for none. With a camera every episode has a
    goal of its own, since 50 pictures of goals could be remembered.
    """
    files = [folder / f"{first:04d}.safetensors" for first in range(0, episodes, SHARD)]
    shards = {file: shard for file in files if (shard := _whole(file)) is not None}
    if missing := [file for file in files if file not in shards]:
        environment = Reach(seed=seed, own_goals=camera is not None)
        with nullcontext() if camera is None else Camera(environment, size=camera) as eye:
            for file in counted(missing, "demonstrate", unit=f"shards of {SHARD} episodes"):
                first = int(file.stem)
                last = min(first + SHARD, episodes)
                steps = [step for i in range(first, last) for step in _episode(environment, eye, i, seed=seed)]
                shard = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
                write_sealed(file, {name: torch.from_numpy(values) for name, values in shard.items()}, {})
                shards[file] = shard
                logger.info("demonstrations: %d of %d episodes", last, episodes)
    return Demonstrations(**{name: np.concatenate([shards[file][name] for file in files]) for name in shards[files[0]]})


def _whole(file: Path) -> dict[str, np.ndarray] | None:
    if not file.exists():
        return None
    try:
        return {name: values.numpy() for name, values in read_sealed(file)[0].items()}
    except ValueError as error:
        logger.warning("%s; making it again", error)
        return None


def _episode(environment: Reach, eye: Camera | None, episode: int, *, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """One expert's steps; which expert depends on the seed and the episode alone."""
    rng = np.random.default_rng([seed, episode])
    task = REACH if rng.random() < _REACH_SHARE else str(rng.choice(list(DIRECTIONS)))
    speed = str(rng.choice(list(SPEEDS)))
    seen = environment.reset(episode)
    for _ in range(STEPS):
        action = act(task, speed, seen, rng)
        yield {
            "hand": seen.hand.astype(np.float32),
            "goal": seen.goal.astype(np.float32),
            "action": action.astype(np.float32),
            "task": np.array(TASKS.index(task)),
            "speed": np.array(list(SPEEDS).index(speed)),
        } | ({} if eye is None else {"image": eye.photograph(environment)})
        seen = environment.step(action)
