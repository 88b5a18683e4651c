"""Meta-World's reach task on MuJoCo, with the goal where it was put and the camera without its costly shadows."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from interp.arguments.extras import extra

if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")  # renders without a display; read when mujoco is first imported

with extra("metaworld", "the simulator"):
    import metaworld
    import mujoco

TASK = "reach-v3"
_GOALS = 50
"""Goals that Meta-World draws at a time."""
START_JITTER = (0.05, 0.05, 0.03)
"""The hand starts at most this far from Meta-World's start, metres."""
REACHED = 0.05
_OPEN_GRIPPER = -1.0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the policy may see, metres; and what the evaluation looks at."""

    hand: Float[np.ndarray, "3"]
    """Where the hand is, in metres."""
    goal: Float[np.ndarray, "3"]
    """Where the goal is, in metres."""
    success: bool
    """The hand is within 5 cm of the goal. Meta-World's own flag asks that of the finger tips, 4.5 cm lower, but its
    scripted policy and ours bring the hand there."""
    clipped: bool
    """The step was cut at the edge of the box that the hand may move in."""


class Reach:
    """Episodes of one environment. ``episode`` fixes goal and start: the same number is the same episode, bit for bit.

    Meta-World's own ``reset(seed=...)`` draws another goal at every reset; here a task is set once and stays.
    """

    def __init__(self, *, seed: int = 0, own_goals: bool = True) -> None:
        """``own_goals``: each episode has another goal. Otherwise they take turns at Meta-World's 50 of that seed."""
        self.seed, self.own_goals = seed, own_goals
        self._env: Any = metaworld.ALL_V3_ENVIRONMENTS[TASK]()
        self._start = np.array(self._env.hand_init_pos)

    def reset(self, episode: int) -> Observation:
        """Start an episode.

        Raises:
            ValueError: no such episode.
        """
        if episode < 0:
            raise ValueError(f"episode {episode}: episodes are counted from 0")
        jitter = np.random.default_rng([self.seed, episode]).uniform(-1, 1, 3) * START_JITTER
        self._env.hand_init_pos = self._start + jitter
        self._env.set_task(_tasks(self._seed_of_goals(episode))[episode % _GOALS])
        state, _ = self._env.reset()
        return self._observe(state, clipped=False)

    def step(self, action: Float[np.ndarray, "3"]) -> Observation:
        """Move the hand's target by ``action`` (each entry in [-1, 1] is up to 1 cm), the gripper open."""
        wanted = self._env.data.mocap_pos[0] + np.clip(action, -1, 1) * self._env.action_scale
        clipped = bool(((wanted < self._env.mocap_low) | (wanted > self._env.mocap_high)).any())
        state, *_ = self._env.step(np.append(action, _OPEN_GRIPPER))
        return self._observe(state, clipped=clipped)

    @property
    def mujoco(self) -> tuple[Any, Any]:
        """The model and the data of the simulation, for the camera."""
        return self._env.model, self._env.data

    def _seed_of_goals(self, episode: int) -> int:
        if not self.own_goals:
            return self.seed
        return int(np.random.SeedSequence([self.seed, episode // _GOALS]).generate_state(1)[0])

    def _observe(self, state: np.ndarray, *, clipped: bool) -> Observation:
        hand, goal = state[:3].copy(), state[-3:].copy()
        return Observation(hand=hand, goal=goal, success=bool(np.linalg.norm(hand - goal) <= REACHED), clipped=clipped)


@cache
def _tasks(seed: int) -> list[Any]:
    """Meta-World's tasks: 50 goals."""
    tasks: list[Any] = metaworld.MT1(TASK, seed=seed).train_tasks
    return tasks


class Camera:
    """Looks at the table from the front, where the goal (a red ball) is in view. Close it, or use it in a ``with``."""

    def __init__(self, environment: Reach, *, size: int) -> None:
        model, _ = environment.mujoco
        # Most of a frame's time on a CPU would go into the shadow map and into multisampling.
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except mujoco.FatalError as error:
            raise OSError(
                f"MuJoCo cannot render here ({error}). Without a display it needs EGL, and MUJOCO_GL=egl before"
                " anything imports mujoco; on Debian: apt-get install libegl1 libgl1-mesa-dri"
            ) from None
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        self._view = mujoco.MjvCamera()
        self._view.lookat[:] = (0.0, 0.75, 0.17)
        self._view.azimuth, self._view.elevation, self._view.distance = 245.0, -20.0, 0.85

    def photograph(self, environment: Reach) -> UInt8[np.ndarray, "size size 3"]:
        """The view of any environment of the same task."""
        self._renderer.update_scene(environment.mujoco[1], self._view)
        return self._renderer.render()

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renderer.close()
