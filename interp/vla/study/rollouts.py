"""Closed-loop episodes of a policy, several at a time, and what is read off them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from interp.terminal.short_repr import short_repr
from interp.vla.policy import words
from interp.vla.policy.policy import VLAPolicy
from interp.vla.policy.tokenizer import encode
from interp.vla.simulator import Camera, Observation, Reach

EVALUATION_SEED = 20_000
"""Of episodes that no policy was trained on."""
STEPS = 30
"""Of an episode, and of the demonstrations."""
Metric = Literal["speed", "right", "forward", "up"]
Inputs = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Hands [episode, 3] and goals [episode, 3] in metres, and images; a policy with a camera is not told the goal."""
_AXES = {"right": 0, "forward": 1, "up": 2}


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Episodes side by side, under one instruction.

    Example:
        >>> import interp
        >>> from interp.vla.study import Arena
        >>> policy = interp.vla.policy.load_policy("state")
        >>> found = Arena([0]).roll(policy, "move up", steps=3)
        >>> found.actions.shape  # episodes, steps, axes
        (1, 3, 3)
        >>> found.measure("up") > found.measure("right")  # mm a step
        array([ True])
    """

    hand: Float[np.ndarray, "episode position 3"]
    """Where the hand was, in metres, its start included."""
    actions: Float[np.ndarray, "episode step 3"]
    """What the policy did at each step, each entry in [-1, 1]."""
    success: Bool[np.ndarray, " episode"]
    """The hand came within 5 cm of the goal at some step."""
    length: Int[np.ndarray, " episode"]
    """Steps until then, or all of them."""
    clipped: Float[np.ndarray, " episode"]
    """Share of steps cut at the edge of the box the hand may move in."""
    words: Float[np.ndarray, " episode"]
    """Share of steps in which a word was likelier than every action token."""
    film: UInt8[np.ndarray, "frame size size 3"] | None
    """The first episode, if it was filmed."""

    __repr__ = short_repr

    def measure(self, metric: Metric) -> Float[np.ndarray, " episode"]:
        """Mean over the steps of the hand's speed, or of its displacement along an axis; mm a step."""
        moves = np.diff(self.hand, axis=1) * 1000
        if metric == "speed":
            return np.linalg.norm(moves, axis=-1).mean(1)
        return moves[..., _AXES[metric]].mean(1)


class Arena:
    """Simulators for some episodes; made once, rolled as often as wanted. The same call gives the same bits.

    Example:
        >>> import interp
        >>> from interp.vla.study import Arena
        >>> policy = interp.vla.policy.load_policy("state")
        >>> found = Arena([0, 1]).roll(policy, "move up", steps=2)
        >>> found.hand.shape  # episodes, positions with the start, axes
        (2, 3, 3)
    """

    def __init__(
        self,
        episodes: Sequence[int],
        *,
        seed: int = EVALUATION_SEED,
        camera: Camera | None = None,
        film: Camera | None = None,
    ) -> None:
        self.episodes, self.seed = list(episodes), seed
        self._environments = [Reach(seed=seed) for _ in episodes]
        self._camera, self._film = camera, film

    def roll(
        self, policy: VLAPolicy, instruction: str, *, steps: int = STEPS, cached: bool = True, swap_images: bool = False
    ) -> Rollout:
        """All episodes under ``instruction``; to steer, call this inside ``interp.steering.steer(policy, ...)``.

        ``swap_images`` shows each episode the camera of the one before it, to see whether a policy looks.

        Raises:
            ValueError: words that the policy does not know; no steps.
        """
        if steps < 1:
            raise ValueError(f"an episode of {steps} steps; it has 1 or more")
        prompt = torch.tensor(encode(words.action_prompt(instruction)))
        seen = [environment.reset(episode) for environment, episode in self._pairs()]
        history, actions, derailed, film = [seen], [], [], self._frames()
        for _ in range(steps):
            chosen = policy.act(prompt, *self._inputs(seen, swap_images), cached=cached)
            seen = [self._environments[i].step(action) for i, action in enumerate(chosen.values)]
            history.append(seen)
            actions.append(chosen.values)
            derailed.append(chosen.word)
            film += self._frames()
        success = np.array([[each.success for each in row] for row in history[1:]])
        reached = np.asarray(success.any(0))
        return Rollout(
            hand=np.array([[each.hand for each in row] for row in history]).swapaxes(0, 1),
            actions=np.array(actions).swapaxes(0, 1),
            success=reached,
            length=np.where(reached, success.argmax(0) + 1, steps),
            clipped=np.array([[each.clipped for each in row] for row in history[1:]]).mean(0),
            words=np.array(derailed).mean(0),
            film=np.array(film) if film else None,
        )

    def starts(self) -> Inputs:
        """What a policy sees at the start of all episodes."""
        return self._inputs([environment.reset(episode) for environment, episode in self._pairs()])

    def _pairs(self) -> Iterator[tuple[Reach, int]]:
        return zip(self._environments, self.episodes, strict=True)

    def _inputs(self, seen: list[Observation], swap_images: bool = False) -> Inputs:
        hand = torch.tensor(np.array([each.hand for each in seen]), dtype=torch.float32)
        if self._camera is None:
            return hand, torch.tensor(np.array([each.goal for each in seen]), dtype=torch.float32), None
        images = [self._camera.photograph(environment) for environment in self._environments]
        return hand, None, torch.from_numpy(np.array(images)).roll(int(swap_images), 0)

    def _frames(self) -> list[np.ndarray]:
        return [self._film.photograph(self._environments[0])] if self._film else []


@contextmanager
def arena_for(
    policy: VLAPolicy, episodes: Sequence[int], *, seed: int = EVALUATION_SEED, film: int | None = None
) -> Iterator[Arena]:
    """An arena with the camera that the policy looks through, and one of ``film`` pixels to film with.

    Example:
        >>> import interp
        >>> from interp.vla.study import arena_for
        >>> policy = interp.vla.policy.load_policy("state")
        >>> with arena_for(policy, [0]) as arena:
        ...     slow, fast = (arena.roll(policy, f"move up {speed}", steps=3) for speed in ("slow", "fast"))
        >>> fast.measure("speed") > slow.measure("speed")
        array([ True])
    """
    with ExitStack() as cameras:
        eyes = {
            name: cameras.enter_context(Camera(Reach(seed=seed), size=size))
            for name, size in (("camera", policy.policy_config.camera), ("film", film))
            if size
        }
        yield Arena(episodes, seed=seed, **eyes)
